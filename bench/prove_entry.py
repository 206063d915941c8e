"""How long a proof takes in a log of 1,000,000 entries: `python -m bench.prove_entry [ENTRIES]`.

It fills the log's tables of a throwaway SQLite database directly, then asks for inclusion and consistency
proofs of random places, each with a cold reader, and prints the median and the slowest of them.
"""

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

ROUNDS = 200


def prepare(folder: str) -> None:
    """Set Django up on a database in that folder."""
    os.environ.setdefault("SECRET_KEY", "only-for-benchmarks-" + "0123456789" * 5)
    os.environ |= {"QFLARE_DATA_DIR": folder, "QFLARE_INSECURE_HTTP": "1", "QFLARE_ACKNOWLEDGE_FILE_KEK": "1"}
    os.environ["DJANGO_SETTINGS_MODULE"] = "qflare_site.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def fill(size: int) -> None:
    """Write the rows of entries and tiles; the leaves are hashes of their numbers, and no event stands behind them."""
    from django.db import connection

    from qflare_protocol.growing_tiles import GrowingTiles
    from qflare_protocol.merkle import leaf_hash

    tree, rows, tiles = GrowingTiles(), [], []
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA foreign_keys = OFF")
        for index in range(size):
            leaf = leaf_hash(index.to_bytes(8, "big"))
            rows.append((index, index + 1, "2026-01-01", "test.happened", bytes(64), bytes(64), leaf))
            tiles += [(tile.level, tile.index, tile.hashes, tile.root) for tile in tree.append(leaf)]
            if len(rows) == 50_000 or index == size - 1:
                columns = '("index", event_id, occurred_at, kind, commitment, entry_hash, leaf_hash)'
                cursor.executemany(f"INSERT INTO audit_entry {columns} VALUES (%s, %s, %s, %s, %s, %s, %s)", rows)  # noqa: S608
                rows = []
        cursor.executemany('INSERT INTO audit_tile (level, "index", hashes, root) VALUES (%s, %s, %s, %s)', tiles)


def timed(work: Callable[[int], object], size: int) -> tuple[float, float]:
    """Return median and slowest of `ROUNDS` calls in milliseconds."""
    taken = []
    for place in random.Random(1).sample(range(1, size), ROUNDS):  # noqa: S311 - places to measure, no secret
        begun = time.perf_counter()
        work(place)
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken), max(taken)


def main() -> None:
    """Run and print."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        from audit.tree import consistency_proof, inclusion_proof

        fill(size)
        for name, work in (
            ("inclusion", lambda place: inclusion_proof(place, size)),
            ("consistency", lambda place: consistency_proof(place, size)),
        ):
            median, slowest = timed(work, size)
            sys.stdout.write(
                f"{name} proof in a log of {size:,}: {median:.2f} ms (median of {ROUNDS}), {slowest:.2f} ms at most\n"
            )


if __name__ == "__main__":
    main()
