"""A PostgreSQL database of the benchmark's own, migrated and with its roles, dropped at the end with them."""

import contextlib
import io
import os
import secrets
import tempfile
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import django
import psycopg
from django.core.management import call_command
from psycopg import sql

DEFAULT_SERVER = "postgres://postgres@127.0.0.1:5432/postgres"
UNASKED_REDIS = "redis://127.0.0.1:6379/15"


@contextlib.contextmanager
def own_site(server_url: str, redis_url: str = UNASKED_REDIS) -> Iterator[str]:
    """Set Django up on a new database of the server, and give its URL; models can be imported from then on.

    The URL is that of a superuser, who alone can make roles. Redis is asked by nothing here.
    """
    name = f"qflare_bench_{secrets.token_hex(4)}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with tempfile.TemporaryDirectory(prefix="qflare-bench-") as folder:
                yield from _site(url, redis_url, folder)
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for (role,) in server.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [f"{name}_"]
            ).fetchall():
                server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _site(url: str, redis_url: str, folder: str) -> Iterator[str]:
    os.environ |= {
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
        "QFLARE_DATA_DIR": folder,
        "SECRET_KEY": secrets.token_urlsafe(50),
        "QFLARE_INSECURE_HTTP": "1",
        "QFLARE_ACKNOWLEDGE_FILE_KEK": "1",
        "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
    }
    django.setup()
    call_command("migrate", verbosity=0)
    call_command("setup_database_roles", stdout=io.StringIO())
    from django.db import connection

    try:
        yield url
    finally:
        connection.close()


@contextlib.contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Have Django's connection act as the role of a process, bound by its grants and by row-level security."""
    from django.db import connection

    from qflare_site.database_roles import role_names

    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("SET ROLE {}").format(sql.Identifier(role_names(connection.settings_dict["NAME"])[role]))
        )
        try:
            yield
        finally:
            cursor.execute("RESET ROLE")
