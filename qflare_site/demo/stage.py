"""Where a demo runs: a data directory, a database and a broker of its own, taken down at the end."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.conf import settings
from psycopg import sql
from redis import Redis

from qflare_site.demo.qkd import simulated_kmes
from qflare_site.demo.settings import DemoSettings

MAINTENANCE_DATABASE = "postgres"
_NOT_INHERITED = ("QFLARE_KEK_FILE", "QFLARE_ENCLAVE_DIR", "BLOB_URL", "QFLARE_QKD_", "QFLARE_EDGE_QKD")


@dataclass
class Stage:
    """The environment of a fresh site; `keep_files` leaves its folder, with all logs, where it is."""

    environment: dict[str, str]
    folder: Path
    keep_files: bool = False


@contextmanager
def demo_stage(demo: DemoSettings, *, keep: bool) -> Iterator[Stage]:
    """Set a stage; what it made is removed at the end unless it is to be kept."""
    name = f"qflare_demo_{secrets.token_hex(4)}"
    folder = Path(settings.QFLARE_DATA_DIR) / "demo" / name
    folder.mkdir(mode=0o700, parents=True)
    environment = {**os.environ, **_rates(demo), "QFLARE_DATA_DIR": str(folder), "QFLARE_INSECURE_HTTP": "1"}
    environment |= {"QFLARE_KEK_PROVIDER": "file", "QFLARE_ACKNOWLEDGE_FILE_KEK": "1"}  # thrown away at the end
    environment |= {"QFLARE_REQUIRE_SECOND_FACTOR": "0"}  # who looks at a kept demo has its password for an hour
    environment = {name: value for name, value in environment.items() if not name.startswith(_NOT_INHERITED)}
    try:
        if settings.PROFILE == "services":
            environment |= _create_services(name)
        with ExitStack() as running:
            if demo.qkd:
                environment |= running.enter_context(simulated_kmes(folder, demo.device_names()))
            stage = Stage(environment, folder, keep_files=keep)
            yield stage
    finally:
        if settings.PROFILE == "services" and not keep:
            _drop_services(name)
    if not stage.keep_files:
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
    _administer(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return {
        "DATABASE_URL": _database_url(name),
        "QFLARE_REDIS_PREFIX": name.replace("_", "-"),
        "SECRET_KEY": os.environ.get("SECRET_KEY") or secrets.token_urlsafe(50),
    }


def _administer(statement: sql.Composed) -> None:
    with psycopg.connect(_database_url(MAINTENANCE_DATABASE), autocommit=True) as connection:
        connection.execute(statement)


def _database_url(name: str) -> str:
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))


def _drop_services(name: str) -> None:
    _administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    client = Redis.from_url(os.environ["REDIS_URL"])
    prefix = name.replace("_", "-")
    for key in client.scan_iter(match=f"{prefix}*"):
        client.delete(key)
    client.close()
