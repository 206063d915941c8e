"""A site for a benchmark on PostgreSQL, in a database that is made for it and dropped afterwards."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import django
import psycopg
from django.core.management import call_command

DEFAULT_SERVER = "postgres://postgres@127.0.0.1:5432/postgres"
UNUSED_REDIS = "redis://127.0.0.1:1/0"
"""The services profile wants one named; nothing that is measured here speaks to it."""


@contextlib.contextmanager
def postgresql_site(server: str = DEFAULT_SERVER) -> Iterator[None]:
    """Set Django up for this process on a new database of that server; models can be imported from then on."""
    name = f"qflare_bench_{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="qflare-bench-") as folder, _database(server, name) as address:
        os.environ |= {"QFLARE_INSECURE_HTTP": "1", "QFLARE_ACKNOWLEDGE_FILE_KEK": "1", "REDIS_URL": UNUSED_REDIS}
        os.environ |= {"DATABASE_URL": address, "QFLARE_DATA_DIR": folder, "SECRET_KEY": secrets.token_urlsafe(50)}
        os.environ["DJANGO_SETTINGS_MODULE"] = "qflare_site.settings"
        django.setup()
        call_command("migrate", verbosity=0)
        try:
            yield
        finally:
            from django.db import connection

            connection.close()


@contextlib.contextmanager
def _database(server: str, name: str) -> Iterator[str]:
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
