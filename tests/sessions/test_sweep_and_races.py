"""What is left of sessions that are over, and revocation against a device that keeps asking."""

import contextlib
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from audit.models import Event
from devices.models import DeviceState
from devices.services import demand_key_rotation, resume_device
from edge_client.http import ServerUnreachable
from qflare_protocol.errors import Refusal
from sessions.key_rotation import rotate_identity_key
from sessions.models import Exchange, Session, SessionState
from sessions.services import end_session, revoke_device, suspend_device, sweep_sessions
from tests.people import OPERATOR, Person, assert_refused, enrol


def test_an_ended_session_keeps_no_answers(alice: Person) -> None:
    session = alice.session()
    session.post("/api/work", {})
    assert Exchange.objects.exists()
    end_session(Session.objects.get().id, reason="test", actor=OPERATOR, now=timezone.now())
    assert not Exchange.objects.exists()


def test_an_expired_session_ends_and_a_challenge_that_nobody_answered_is_deleted_after_a_day(alice: Person) -> None:
    alice.session().post("/api/work", {})
    alice.post_cbor("/api/challenge", {"request": alice.handshake().request})
    now = timezone.now()
    sweep_sessions(now=now + timedelta(hours=2))
    assert set(Session.objects.values_list("state", flat=True)) == {SessionState.ENDED}
    assert Session.objects.count() == 2
    sweep_sessions(now=now + timedelta(hours=27))
    assert Session.objects.get().activated_at is not None


def test_a_challenge_request_is_answered_once(alice: Person) -> None:
    request = alice.handshake().request
    alice.post_cbor("/api/challenge", {"request": request})
    assert_refused(alice.post_cbor("/api/challenge", {"request": request}), "handshake-used")
    assert Session.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_revocation_wins_against_a_device_that_keeps_asking(tmp_path) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time: there are no locks to take in the wrong order")
    person = enrol("alice", tmp_path / "alice")
    line = person.line()
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            request = line.seal("/api/work", body=b"\xa0")
            line.send(request)
        connections.close_all()

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        revoke_device(person.device.id, reason="stolen", actor=OPERATOR, now=timezone.now())
    finally:
        stop.set()
        asking.join()
    assert person.device.state == DeviceState.REVOKED
    assert not Session.objects.exclude(state=SessionState.ENDED).exists()


def deadlocks() -> int:
    """Return how many deadlocks PostgreSQL has counted in this database; a connection reports its own at its end."""
    connection.close()
    time.sleep(1)  # until the last of them has ended
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


ACTS = {"ask", "rekey", "close"}
"""What a life has to have done for the race to count; keys rotate mostly on demand, in the middle of these."""


def lead_a_life(person: Person, stop: threading.Event, done: Counter[str]) -> None:
    """Open sessions, ask, rekey and rotate keys; what an operator does meanwhile may refuse any of it."""
    session = person.session()
    acts = {
        "ask": lambda: session.post("/api/work", {}),
        "rekey": session.rekey,
        "rotate": session.rotate_keys,
        "close": session.close,
    }
    try:
        while not stop.is_set():
            for name, act in acts.items():
                with contextlib.suppress(Refusal, ServerUnreachable):
                    act()
                    done[name] += 1
    finally:
        connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_whatever_comes_at_once_no_two_transactions_wait_for_each_other(tmp_path) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time: there are no locks to take in the wrong order")
    people = [enrol(name, tmp_path / name) for name in ("alice", "carol", "dave")]
    before, stop = deadlocks(), threading.Event()
    done: Counter[str] = Counter()
    lives = [threading.Thread(target=lead_a_life, args=(person, stop, done)) for person in people]
    for life in lives:
        life.start()
    try:
        for turn in range(60):
            if turn >= 8 and set(done) >= ACTS:
                break
            time.sleep(turn / 200)  # on a busy machine a device needs longer for a request than this for a turn
            device, now = people[turn % 3].device, timezone.now()
            change = {"reason": "race", "actor": OPERATOR, "now": now}
            demand_key_rotation(device.id, **change)
            sweep_sessions(now=now + timedelta(minutes=10 * (turn % 2)))
            suspend_device(device.id, **change)
            resume_device(device.id, **change)
            if turn % 4 == 3:
                rotate_identity_key("ML-DSA-44", **change)
    finally:
        stop.set()
        for life in lives:
            life.join()
    assert deadlocks() == before
    assert set(done) >= ACTS, done
    assert Event.objects.filter(kind="device.keys_rotated").exists()
    assert people[0].session().post("/api/work", {})["round"] is None
