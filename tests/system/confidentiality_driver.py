"""Driver: train one round with updates that carry a known pattern, then look for it everywhere it must not be."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.system.running_site import KnownUpdateTrainer, create_federation, enrol, set_up_django, site, wait_for

PARAMETERS = 4096
DEVICES = 3


def main() -> None:
    set_up_django()
    from django.conf import settings
    from django.utils import timezone

    from training.models import Round, RoundState
    from training.services.rounds import open_round

    generator = np.random.default_rng(11)
    common = generator.standard_normal(PARAMETERS)
    changes = [{"w": (common + 0.5 * generator.standard_normal(PARAMETERS)).astype(np.float32)} for _ in range(DEVICES)]
    base = {"w": np.zeros(PARAMETERS, np.float32)}
    folder = Path(settings.QFLARE_DATA_DIR)
    with site() as group:
        federation = create_federation(base)
        workers = [
            enrol(group.url, f"device-{index}", folder / "devices", KnownUpdateTrainer(change, 10))
            for index, change in enumerate(changes)
        ]
        round_ = open_round(federation.id, actor="operator:test", now=timezone.now())
        wait_for(lambda: Round.objects.filter(id=round_.id, state=RoundState.OPEN).exists(), "the round to open")
        for worker in workers:
            assert worker.work_once()[0], "the device was given no work"
        wait_for(
            lambda: Round.objects.filter(id=round_.id, state=RoundState.COMPLETED).exists(), "the round to complete"
        )
        patterns = [change["w"][start : start + 4].tobytes() for change in changes for start in (0, 1000, 4000)]
        searched = 0
        for place, content in everything(folder):
            searched += len(content)
            for pattern in patterns:
                assert pattern not in content, f"a plaintext update lies in {place}"
                assert pattern.hex().encode() not in content, f"a plaintext update lies, as hex, in {place}"
    assert searched > PARAMETERS * 4 * DEVICES, "the search looked at less than the updates themselves"
    print(f"searched {searched} bytes")  # noqa: T201


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of the site (database, broker, blobs, logs, devices) and, where used, PostgreSQL and Redis."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
    yield from database_rows()
    yield from redis_values()


def database_rows() -> Iterator[tuple[str, bytes]]:
    from django.db import connection

    for table in connection.introspection.table_names():
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608 - a name from the schema
            for row in cursor.fetchall():
                yield f"table {table}", b"\x00".join(as_bytes(value) for value in row)


def as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


def redis_values() -> Iterator[tuple[str, bytes]]:
    import os

    from redis import Redis

    if not os.environ.get("REDIS_URL"):
        return
    client = Redis.from_url(os.environ["REDIS_URL"])
    for key in client.scan_iter(match=f"{os.environ['QFLARE_REDIS_PREFIX']}*"):
        yield f"Redis key {key!r}", client.dump(key) or b""
    client.close()


if __name__ == "__main__":
    sys.exit(main())
