"""What is left of sessions that are over, and revocation against a device that keeps asking."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from devices.models import DeviceState
from sessions.models import Exchange, Session, SessionState
from sessions.services import end_session, revoke_device, sweep_sessions
from tests.people import OPERATOR, Person, assert_refused, enrol


def test_an_ended_session_keeps_no_answers(alice: Person) -> None:
    session = alice.session()
    session.post("/api/work", {})
    assert Exchange.objects.exists()
    end_session(Session.objects.get().id, reason="test", actor=OPERATOR, now=timezone.now())
    assert not Exchange.objects.exists()


def test_ended_sessions_are_deleted_after_a_day(alice: Person) -> None:
    alice.session().post("/api/work", {})
    now = timezone.now()
    sweep_sessions(now=now + timedelta(hours=2))
    assert Session.objects.get().state == SessionState.ENDED
    sweep_sessions(now=now + timedelta(hours=27))
    assert not Session.objects.exists()


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
