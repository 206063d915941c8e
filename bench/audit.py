"""`python -m bench.audit`: sequencing, signing and proving on PostgreSQL, as the log grows.

Sequencing is measured in batches of 10,000 events, each with its signed checkpoint in one commit, and
stands beside what no implementation can leave out: the hashes of chain and tree, and the same rows
written by COPY and their events marked, in one commit. CPU time and waiting both count: it is wall time.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.postgresql_site import DEFAULT_SERVER, own_site

ENTRIES = 1_000_000
PROOFS = 200
LEAST_PER_SECOND, MOST_PROOF_MILLISECONDS = 10_000, 5.0
PAGE = """# The log's speed

Made by `python -m bench.audit --output docs/benchmarks/audit.md` on PostgreSQL {server}, one connection. Events are
appended in batches of {batch:,}, each committed with its signed checkpoint. *Bare* is the same rows hashed, written by
COPY and their events marked in one commit, without anything else, in the same run.

{table}
The goals are {least:,} entries a second and {proof:g} ms for a proof (of inclusion, from the database, with its entry).
"""


@dataclass(frozen=True)
class Figures:
    """What was measured when the log had reached a size; the bare statement is measured at the same size."""

    entries: int
    per_second: float
    bare_per_second: float
    proof_milliseconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.audit", description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES, help="how long the log gets (default: %(default)s)")
    parser.add_argument("--server", default=DEFAULT_SERVER, help="PostgreSQL as its superuser (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--output", type=Path, help="write the Markdown page there")
    options = parser.parse_args(arguments)
    with own_site(options.server):
        figures, version = measure(_sizes(options.entries))
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in figures], indent=1) + "\n")
    elif options.output:
        options.output.write_text(_page(figures, version), encoding="utf-8")
    else:
        sys.stdout.write(_table(figures))


def _sizes(most: int) -> list[int]:
    return [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size < most] + [most]


def measure(sizes: Sequence[int]) -> tuple[list[Figures], str]:
    """Return the figures at each size, and the server's version. Call inside `own_site`."""
    from django.db import connection

    from audit.sequencing import BATCH

    figures: list[Figures] = []
    reached = 0
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = cursor.fetchone()[0]
    for size in sizes:
        seconds: list[float] = []
        while reached < size:
            count = min(BATCH, size - reached)
            _record_events(count)
            seconds.append(_sequence(count) / count)
            reached += count
            sys.stderr.write(f"\r{reached:,} entries, {1 / seconds[-1]:,.0f} a second ")
            sys.stderr.flush()
        count = min(BATCH, size)
        figures.append(Figures(size, 1 / statistics.median(seconds[-10:]), count / _bare(count), _proof_milliseconds()))
    sys.stderr.write("\n")
    return figures, version


def _record_events(count: int) -> None:
    """Put events into the sequencer's inbox, as `record_event` writes them, many in a statement."""
    from audit.models import Event
    from qflare_protocol.audit_entry import SALT_BYTES, commitment, disclosure_bytes, encode_payload

    rows = []
    for number in range(count):
        payload = {"device": f"press {number % 500}", "session_id": os.urandom(16).hex()}
        salt, actor, encoded = os.urandom(SALT_BYTES), f"device:press {number % 500}", encode_payload(payload)
        members: dict[str, Any] = {"payload": payload, "payload_bytes": encoded, "salt": salt, "actor": actor}
        committed = commitment(disclosure_bytes(salt, actor, encoded))
        rows.append(Event(kind="session.opened", occurred_at=datetime.now(UTC), commitment=committed, **members))
    Event.objects.bulk_create(rows, batch_size=2000)


def _sequence(count: int) -> float:
    from audit.services import sequence_events

    started = time.perf_counter()
    if sequence_events() != count:
        raise RuntimeError("the sequencer left events behind")
    return time.perf_counter() - started


def _bare(count: int) -> float:
    """Return the seconds of the same work on the last rows of the log, rolled back."""
    from django.db import connection, transaction

    from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, entry_hash
    from qflare_protocol.merkle import leaf_hash, node_hash

    columns = "index, event_id, occurred_at, kind, commitment, entry_hash, leaf_hash"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE bare (LIKE audit_entry INCLUDING ALL) ON COMMIT DROP")
        cursor.execute("CREATE TEMPORARY TABLE bare_event (LIKE audit_event INCLUDING ALL) ON COMMIT DROP")
        cursor.execute("INSERT INTO bare_event SELECT * FROM audit_event ORDER BY id DESC LIMIT %s", [count])
        started = time.perf_counter()
        cursor.execute(f"SELECT {columns} FROM audit_entry ORDER BY index DESC LIMIT {count}")  # noqa: S608 - a number
        rows, previous = cursor.fetchall(), GENESIS_HASH
        with cursor.copy(f"COPY bare ({columns}) FROM STDIN") as copy:
            for index, event, moment, kind, committed, _, _ in rows:
                data = AuditEntry(index, index, kind, bytes(committed), previous).to_bytes()
                previous, leaf = entry_hash(data), leaf_hash(data)
                node_hash(leaf, leaf)
                copy.write_row((index, event, moment, kind, bytes(committed), previous, leaf))
        cursor.execute("UPDATE bare_event SET sequenced = NOT sequenced WHERE id = ANY(%s)", [[row[1] for row in rows]])
        seconds = time.perf_counter() - started
        transaction.set_rollback(True)
    return seconds


def _proof_milliseconds() -> float:
    from audit.models import Entry
    from audit.tree import inclusion_proof, tree_size

    size, generator, seconds = tree_size(), random.Random(1), []  # noqa: S311 - which entries are asked for
    for _ in range(PROOFS):
        index = generator.randrange(size)
        started = time.perf_counter()
        Entry.objects.select_related("event").get(index=index)
        inclusion_proof(index, size)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def _table(figures: Sequence[Figures]) -> str:
    lines = [
        "| entries in the log | sequenced a second | bare | times bare | proof of one, ms |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in figures:
        times = row.bare_per_second / row.per_second
        numbers = f"{row.entries:,} | {row.per_second:,.0f} | {row.bare_per_second:,.0f} | {times:.2f}"
        lines.append(f"| {numbers} | {row.proof_milliseconds:.2f} |")
    return "\n".join(lines) + "\n"


def _page(figures: Sequence[Figures], version: str) -> str:
    from audit.sequencing import BATCH

    limits = {"least": LEAST_PER_SECOND, "proof": MOST_PROOF_MILLISECONDS}
    return PAGE.format(server=version.split()[0], batch=BATCH, table=_table(figures), **limits)


if __name__ == "__main__":
    main()
