"""A rotation in a process of its own, on the site's settings: `populate`, or `rotate N`.

`rotate N` stops after N values, says so and waits to be killed, so that the kill meets it at a known
place. What opens, and under which keys it stands, is printed as JSON before and after.
"""

import json
import sys
import time
from typing import Any

import django


def populate() -> None:
    """Make the tables, without the way that migrations take there, and some server keys."""
    from django.apps import apps
    from django.conf import settings
    from django.core.management import call_command

    from keyring.services import server_signer

    settings.MIGRATION_MODULES = {config.label: None for config in apps.get_app_configs()}
    call_command("migrate", run_syncdb=True, verbosity=0)
    for algorithm in ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87"):
        server_signer("log", algorithm)
        server_signer("identity", algorithm)


def rotate(stop_after: int) -> None:
    """Rotate, and wait to be killed after some values."""
    from django.core.management import call_command

    from keyring import rotation

    really, done = rotation._rewrap_value, iter(range(1, 10_000))

    def rewrap_and_wait(*arguments: Any) -> bool:
        moved = really(*arguments)
        if next(done) == stop_after:
            print("half way", flush=True)  # noqa: T201
            time.sleep(60)
        return moved

    rotation._rewrap_value = rewrap_and_wait
    call_command("rotate_kek", grace_seconds=0)


def examine() -> dict[str, Any]:
    """Return what opens, and under which keys it stands."""
    from keyring.columns import wrapped_columns
    from keyring.envelope import unwrap
    from keyring.kek_file import FileProvider
    from keyring.models import DataKey, ServerKey

    rows = ServerKey.objects.order_by("created_at")
    place = {"table": "keyring_serverkey", "column": "wrapped_private"}
    return {
        "private": [unwrap(row.wrapped_private, primary_key=row.id, **place).hex() for row in rows],
        "under": sorted({str(key) for column in wrapped_columns() for key in column.counts()}),
        "data_keys": sorted(str(row.id) for row in DataKey.objects.all()),
        "retired": DataKey.objects.exclude(retired_at=None).count(),
        "keks": [kek.place for kek in FileProvider().keks()],
    }


def main() -> None:
    """Do what the arguments say and print JSON."""
    django.setup()
    if sys.argv[1] == "populate":
        populate()
    else:
        print(json.dumps(examine()))  # noqa: T201
        rotate(int(sys.argv[2]))
    print(json.dumps(examine()))  # noqa: T201


if __name__ == "__main__":
    main()
