"""The page that says what larger fleets need: `python -m bench.fleet.scaling [--figures FILE] [--output FILE]`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.fleet.needs import CORES_OF_A_HOST, USED, Needs, Use, needs
from bench.fleet.summary import STAGES

FIGURES, PAGE = Path("docs/benchmarks/fleet.json"), Path("docs/scaling.md")
TAKES = {"idle": "asking for work", "session": "sessions", "round": "the rounds themselves"}
STEPS = (
    (
        "100,000 devices, a round an hour with all of them, asks every 30 seconds",
        Use(100_000, 30, 24, 24, 100_000),
        "asking",
    ),
    ("The same, asks every 5 minutes, rounds of 5,000", Use(100_000, 300, 24, 24, 5_000), "target"),
    (
        "10,000,000 devices, a round a day with 10,000 of them, asks every 30 seconds",
        Use(10_000_000, 30, 1, 1, 10_000),
        "asking-again",
    ),
    ("The same, asks every hour", Use(10_000_000, 3600, 1, 1, 10_000), "registry"),
)


def scaling_page(figures: Path) -> str:
    """Return the page in Markdown, computed from the figures of the largest measured fleet."""
    measured = json.loads(figures.read_text())[-1]
    parts = [_head(measured), _device(measured)]
    for title, use, design in STEPS:
        parts += [f"## {title}\n", _table(use, needs(use, measured)), DESIGNS[design]]
    return "\n".join([*parts, END])


def _head(measured: Mapping[str, Any]) -> str:
    return HEAD.format(devices=measured["devices"], hosts=CORES_OF_A_HOST, used=round(100 * USED))


def _device(measured: Mapping[str, Any]) -> str:
    rows = ["| | server, ms of a core | of it PostgreSQL | bodies, kB | rows, kB |", "|---|---:|---:|---:|---:|"]
    for name, title in STAGES.items():
        cells = (
            f"{measured['server_ms'][name]:.1f}",
            f"{measured['database_ms'][name]:.1f}",
            f"{measured['body_bytes'][name] / 1e3:.1f}",
            f"{measured['database_bytes'][name] / 1e3:.1f}",
        )
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(["## One device\n", *rows, ""])


def _table(use: Use, need: Needs) -> str:
    cores = ", ".join(
        f"{TAKES[name]} {need.web_cores[name] + need.database_cores[name]:,.1f}" for name in need.web_cores
    )
    rows = {
        "asks a second": f"{need.asks:,.0f}",
        "busy cores": cores,
        f"web hosts of {CORES_OF_A_HOST} cores": f"{need.web_hosts:,}",
        "cores of PostgreSQL": f"{need.postgresql_cores:,}",
        "Redis commands a second": f"{need.redis_commands:,.0f}",
        "rows of the registry of devices": _bytes(need.registry_bytes),
        "rows of sessions, rounds and their events, a day": _bytes(need.daily_rows_bytes),
        f"sealed updates of one round, {use.update_bytes / 1e6:.0f} MB each": _bytes(need.blob_bytes_of_a_round),
        "network, updates and models included": f"{_bytes(need.network_bytes)} a second",
        "what takes most of the processors": f"**{TAKES[need.bottleneck]}**",
    }
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items()), ""])


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


HEAD = """# What a large fleet needs

Computed by `make bench-fleet` from [benchmarks/fleet.md](benchmarks/fleet.md): processor time, bytes and rows of one
device in the largest measured fleet, {devices:,} devices, times what a fleet does. Nothing here was measured beyond
that; cores are those of that machine. Hosts have {hosts} cores, {used} % busy. An update and a model have 10 MB; a
device opens a session an hour where it works all day, and one a day where it takes part once a day.
"""

DESIGNS = {
    "asking": """*Bottleneck:* devices that ask although nothing waits. *Design for it:* the ask-again time. It is a
sixtieth of the federation's `round_seconds` and at most 30 s (`LONGEST_ASK_AGAIN_SECONDS`), which is the next thing to
raise. Web hosts are stateless and are added; PostgreSQL is the one part that grows upwards. Then the bytes of updates
and models: with `BLOB_URL=s3://...` they pass no web host, and an ordinary cache may stand before `GET /api/blobs`,
whose answers never change and are useless without a session's key.
""",
    "target": """*Bottleneck:* named in the table. Not every device is needed in every round: `target` and a random or
labelled selection leave rounds of some thousand devices. *Rules that look at all pairs of updates* need that anyway:
their Gram matrix has n² numbers of 8 bytes, 0.2 GB at 5,000 devices and 80 GB at 100,000; rules by coordinate and the
mean have no such matrix. Every update that arrives counts itself on its round's row, one commit after the other: rounds
of a million updates would wait there.
""",
    "asking-again": """*Bottleneck:* asking; no number of hosts is the answer. *Design for it, not built:* an
ask-again time that follows the fleet's size and the time of the next round, so that the rate of asks is what the
operator sets and not what the fleet's size makes it.
""",
    "registry": """*Bottleneck:* named in the table; then the registry, whose keys alone (FrodoKEM's public key has 9.6
kB) outgrow memory, and vacuum of a table in which every ask writes when the device was last seen. *Design for it, not
built:* keys of devices in the blob store or behind a cache, as a handshake alone needs them; the time a device was last
seen in a table of its own; sessions, exchanges and participations partitioned by time; `QF1-K1024` in place of
`QF1-F640` where 1.6 kB a key are enough; a site for each region with its own enclave, whose results a second level
aggregates. QFLARE has no second level today: regions are federations of their own.
""",
}

END = """## What does not grow with the fleet

One sequencer writes the log, one tick dispatches; both take events and rounds in batches. One sealed process reads a
round's updates at about 1 GB a second and core ([sealed.md](benchmarks/sealed.md)); `ranges` spread a large model over
several processes of the enclave host. Handshakes, answers and receipts of different devices share no row but the
round's.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page anew from the figures as they lie there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    options.output.write_text(scaling_page(options.figures))


if __name__ == "__main__":
    main()
