"""Where a demo runs: a data directory, a database and a broker of its own, taken down at the end."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.conf import settings
from psycopg import sql
from redis import Redis

from qflare_site.demo.settings import DemoSettings


@contextmanager
def demo_stage(demo: DemoSettings, *, keep: bool) -> Iterator[dict[str, str]]:
    """Give the environment of a fresh site; its traces are removed at the end unless they are kept."""
    name = f"qflare_demo_{secrets.token_hex(4)}"
    folder = Path(settings.QFLARE_DATA_DIR) / "demo" / name
    folder.mkdir(mode=0o700, parents=True)
    environment = {**os.environ, **_rates(demo), "QFLARE_DATA_DIR": str(folder), "QFLARE_INSECURE_HTTP": "1"}
    for inherited in ("QFLARE_KEK_FILE", "QFLARE_ENCLAVE_DIR", "BLOB_URL"):
        environment.pop(inherited, None)
    try:
        if settings.PROFILE == "services":
            environment |= _create_services(name)
        yield environment
    finally:
        if not keep:
            if settings.PROFILE == "services":
                _drop_services(name)
            shutil.rmtree(folder)


def _rates(demo: DemoSettings) -> dict[str, str]:
    """The whole fleet shares one address here, so limits by address are the defaults times the devices."""
    return {
        "QFLARE_RATE_ENROLMENT": f"{5 * demo.devices}/m",
        "QFLARE_RATE_CHALLENGE": f"{30 * demo.devices}/m",
        "QFLARE_RATE_SUBMISSION": "30/m",
        "QFLARE_RATE_DOWNLOAD": f"{60 * demo.devices}/m",
    }


def _create_services(name: str) -> dict[str, str]:
    server = os.environ["DATABASE_URL"]
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return {
        "DATABASE_URL": urlunsplit(urlsplit(server)._replace(path=f"/{name}")),
        "QFLARE_REDIS_PREFIX": name.replace("_", "-"),
        "SECRET_KEY": os.environ.get("SECRET_KEY") or secrets.token_urlsafe(50),
    }


def _drop_services(name: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    client = Redis.from_url(os.environ["REDIS_URL"])
    prefix = name.replace("_", "-")
    for key in client.scan_iter(match=f"{prefix}*"):
        client.delete(key)
    client.close()
