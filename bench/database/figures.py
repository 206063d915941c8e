"""The measurements. Wall-clock time: the database works in processes of its own, and its disk has to answer."""

import itertools
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import psycopg
from django.db import connection, transaction
from django.utils import timezone

from audit.services import record_event
from bench.database.page import Figure
from bench.measuring import Stopwatch
from bench.postgresql_site import acting_as
from devices.models import Device, DeviceKey
from devices.row_security import confined_to
from devices.services import register_device
from keyring import envelope
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.suites import DEFAULT_SUITE
from sessions.archiving import archive_sessions
from sessions.models import ReservedQkdKey, Session
from sessions.services import sweep_sessions

SESSIONS = 20_000
CLEANED_UP = 10_000
CLEAN_UPS = 3
KEY_SECONDS, LOOKUP_SECONDS, EVENT_SECONDS, CLEAN_UP_SECONDS = 2e-3, 1e-3, 1e-3, 1.0

Case = Callable[[], object]


def measure(url: str, repetitions: int) -> list[Figure]:
    """Return the figures, cases and references in turn. Call inside `own_site`."""
    watch = Stopwatch(time.perf_counter)
    device = _device()
    envelope.wrap(b"warm", **ReservedQkdKey.envelope(uuid.uuid4()))
    for state in ("active", "ended"):
        _insert_sessions(device, SESSIONS // 2, state)
    with psycopg.connect(url, autocommit=True) as bare:
        bare.execute("CREATE TABLE bare (id uuid PRIMARY KEY, data bytea, at timestamptz)")
        with acting_as("web"):
            cases = _small_cases(device, bare)
            for case in cases.values():
                case()  # warms up
            for _ in range(repetitions):
                for name, case in cases.items():
                    watch.run(name, case)
            for statement in (bare.execute, connection.cursor().execute):
                statement("SET synchronous_commit = off")
            for _ in range(repetitions):
                for name in ("store wrapped key", "bare wrapped key", "audit insert", "bare event"):
                    watch.run(f"{name}, no wait", cases[name])
            for statement in (bare.execute, connection.cursor().execute):
                statement("SET synchronous_commit = on")
        for _ in range(CLEAN_UPS):
            _clean_up(device, bare, watch)
    return _figures(watch)


def _device() -> Device:
    keys = generate_device_keypair(DEFAULT_SUITE)
    with transaction.atomic():
        registered = RegisteredKeys(keys.suite, keys.kem.public, keys.signer.public)
        return register_device("bench", "", registered, now=timezone.now())


def _small_cases(device: Device, bare: psycopg.Connection) -> dict[str, Case]:
    live = list(Session.objects.filter(state="active").values_list("id", flat=True)[:100])
    turn = itertools.cycle(live)
    key_rows = list(DeviceKey.objects.filter(device=device))
    key_bytes = sum(len(bytes(key.public_key)) + 100 for key in key_rows)
    return {
        "store wrapped key": lambda: _store_wrapped_key(device),
        "bare wrapped key": lambda: _bare_insert(bare, 300),
        "store public keys": lambda: _store_public_keys(key_rows),
        "bare public keys": lambda: _bare_insert(bare, key_bytes),
        "session lookup": lambda: _look_up(next(turn)),
        "bare lookup": lambda: bare.execute(
            "SELECT * FROM device_sessions_session s JOIN devices_device d ON d.id = s.device_id WHERE s.id = %s",
            [live[0]],
        ).fetchone(),
        "audit insert": _record,
        "bare event": lambda: _bare_insert(bare, 500),
        "confine": lambda: _confine(device),
        "bare select": lambda: bare.execute("SELECT 1").fetchone(),
    }


def _store_wrapped_key(device: Device) -> None:
    """Do what a reserved key's row is made by: wrap under the data key, insert, commit."""
    from qflare_protocol.qkd.etsi014 import QkdKey
    from sessions.qkd_keys import _kept

    with transaction.atomic():
        _kept(device, QkdKey(uuid.uuid4(), os.urandom(32)), os.urandom(64), timezone.now())


def _store_public_keys(rows: list[DeviceKey]) -> None:
    """Insert two public keys of a device as its enrolment does; versions rise, so that constraints hold."""
    now = timezone.now()
    for row in rows:
        row.pk, row.fingerprint, row.version = None, os.urandom(32), next(_VERSIONS)
        row.valid_until = now + timedelta(days=1)
    with transaction.atomic():
        DeviceKey.objects.bulk_create(rows)


_VERSIONS = iter(range(2, 1_000_000))


def _look_up(session_id: uuid.UUID) -> None:
    from sessions.exchanges import _live_session

    _live_session(session_id, timezone.now())


def _record() -> None:
    payload = {"session_id": str(uuid.uuid4()), "device": "bench", "reason": "closed by the device"}
    with transaction.atomic():
        record_event("session.ended", actor="device:bench", payload=payload)


def _confine(device: Device) -> None:
    with confined_to(device.id):
        pass


def _bare_insert(bare: psycopg.Connection, size: int) -> None:
    bare.execute("INSERT INTO bare VALUES (%s, %s, now())", [uuid.uuid4(), os.urandom(size)])


_COLUMNS = {
    "id": "gen_random_uuid()", "device_id": "%(device)s", "suite": "'QF1-F640'",
    "challenge_digest": "decode(md5(random()::text) || md5(n::text), 'hex')", "state": "%(state)s",
    "end_reason": "''", "wrapped_secret": "CASE WHEN %(state)s = 'active' THEN decode(repeat('ab', 300), 'hex') END",
    "key_version": "1", "identity_fingerprint": "''", "qkd": "false", "generation": "0", "first_epoch": "1",
    "epoch": "1000000000000", "highest_sequence": "0", "requests": "0", "transfer_bytes": "0",
    "challenged_at": "now() - interval '30 days'", "activated_at": "now() - interval '30 days'",
    "expires_at": "now() + %(expires)s::interval",
    "ended_at": "CASE WHEN %(state)s = 'ended' THEN now() - %(ended)s::interval END",
}  # fmt: skip


def _insert_sessions(device: Device, count: int, state: str, *, expires: str = "1 day", ended: str = "1 day") -> None:
    """Insert sessions by the database itself, with a secret of the usual size where they are open."""
    names, values = ", ".join(_COLUMNS), ", ".join(_COLUMNS.values())
    rows = f"SELECT {values} FROM generate_series(1, %(count)s) AS n"  # noqa: S608 - of the table above
    terms = {"device": device.id, "state": state, "expires": expires, "ended": ended, "count": count}
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO device_sessions_session ({names}) {rows}", terms)


def _clean_up(device: Device, bare: psycopg.Connection, watch: Stopwatch) -> None:
    """Archive and delete ten thousand sessions; delete as many by one bare statement; end as many that expired."""
    _insert_sessions(device, CLEANED_UP, "ended", ended="20 days")
    bare.execute("ANALYZE device_sessions_session")
    with acting_as("worker"):
        _expect(watch.run("clean-up", archive_sessions, now=timezone.now()))
    _insert_sessions(device, CLEANED_UP, "ended", ended="20 days")
    old = "DELETE FROM device_sessions_session WHERE ended_at < now() - interval '10 days'"
    _expect(watch.run("bare clean-up", bare.execute, old).rowcount)
    _insert_sessions(device, CLEANED_UP, "active", expires="-1 second")
    with acting_as("worker"):
        watch.run("sweep", sweep_sessions, now=timezone.now())
    _expect(bare.execute("DELETE FROM device_sessions_session WHERE end_reason = 'expired'").rowcount)


def _expect(count: int) -> None:
    if count != CLEANED_UP:
        raise RuntimeError(f"{count} sessions were cleaned up in place of {CLEANED_UP}: the figure means nothing")


def _unwaited(case: str, reference: str) -> tuple[str, str, None]:
    return f"{case}, no wait", f"{reference}, no wait", None


def _figures(watch: Stopwatch) -> list[Figure]:
    rows = [
        ("store a wrapped key (wrap, INSERT, COMMIT)", "store wrapped key", "bare wrapped key", KEY_SECONDS),
        ("store a device's two public keys", "store public keys", "bare public keys", KEY_SECONDS),
        ("session lookup, as a request is authenticated", "session lookup", "bare lookup", LOOKUP_SECONDS),
        ("audit insert (record_event, COMMIT)", "audit insert", "bare event", EVENT_SECONDS),
        ("store a wrapped key, the disk not waited for", *_unwaited("store wrapped key", "bare wrapped key")),
        ("audit insert, the disk not waited for", *_unwaited("audit insert", "bare event")),
        ("confine a request to its device, and back", "confine", "bare select", None),
        (f"clean-up of {CLEANED_UP:,} sessions: archive, delete, log", "clean-up", "bare clean-up", CLEAN_UP_SECONDS),
        (f"sweep that ends {CLEANED_UP:,} sessions, an event each", "sweep", "bare clean-up", None),
    ]
    medians, slow = watch.medians(), watch.percentiles(95)
    return [
        Figure(title, medians[name], slow[name], medians[reference], target) for title, name, reference, target in rows
    ]
