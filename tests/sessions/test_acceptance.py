"""The one statement that accepts the usual request takes nothing that the long way would refuse or answer otherwise."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from devices.models import Device, DeviceState
from devices.row_security import confined_transaction
from qflare_protocol.epochs import SessionLimits
from qflare_protocol.sealed_request import SEQUENCE_WINDOW, MessageNumber, new_salt
from sessions import exchanges
from sessions.acceptance import take_number
from sessions.exchanges import FORGOTTEN_EVERY
from sessions.models import Exchange, Session, SessionState
from sessions.services import end_session
from sessions.session_lookup import live_session
from tests.people import Line, Person, assert_refused

pytestmark = pytest.mark.django_db
LENGTH, LIMITS = 100, SessionLimits()


@pytest.fixture
def session(alice: Person) -> Session:
    alice.line()
    found = live_session(Session.objects.get().id, timezone.now())
    assert found is not None
    return found


@pytest.fixture
def line(alice: Person) -> Line:
    return alice.line()


def took(session: Session, sequence: int = 1, *, limits: SessionLimits = LIMITS, later: float = 0) -> bool:
    number = MessageNumber(session.id.bytes, session.generation, session.epoch, sequence, new_salt())
    with transaction.atomic():
        now = timezone.now() + timedelta(seconds=later)
        return take_number(session, number, LENGTH, limits=limits, now=now)


def counted(session: Session) -> tuple[int, int, int]:
    row = Session.objects.get(id=session.id)
    return row.highest_sequence, row.requests, row.transfer_bytes


def test_a_number_that_is_taken_counts(session: Session) -> None:
    assert took(session, 3)
    assert took(session, 5)
    assert counted(session) == (5, 2, 2 * LENGTH)


@pytest.mark.parametrize("sequence", [1, 5])
def test_a_number_that_may_have_been_used_is_left_to_the_long_way(session: Session, sequence: int) -> None:
    assert took(session, 5)
    assert not took(session, sequence)
    assert counted(session) == (5, 1, LENGTH)


@pytest.mark.parametrize(
    "changed", [{"generation": 1}, {"epoch": 1 << 40}, {"first_epoch": 1}], ids=["rekeyed", "moved on", "begun anew"]
)
def test_a_row_that_moved_on_since_it_was_read_is_left_to_the_long_way(
    session: Session, changed: dict[str, int]
) -> None:
    Session.objects.update(**changed)
    assert not took(session)
    assert counted(session) == (0, 0, 0)


def test_a_session_that_ended_since_it_was_read_takes_nothing(session: Session) -> None:
    end_session(session.id, reason="over", actor="operator:root", now=timezone.now())
    assert Session.objects.get().state == SessionState.ENDED
    assert not took(session)


def test_a_device_that_was_barred_since_takes_nothing(session: Session) -> None:
    Device.objects.update(state=DeviceState.SUSPENDED)
    assert not took(session)


def test_an_expired_session_takes_nothing(session: Session) -> None:
    assert not took(session, later=LIMITS.lifetime_seconds + 1)
    assert took(session)


def test_the_last_request_of_an_allowance_is_taken_and_none_after_it(session: Session) -> None:
    assert took(session, 1, limits=replace(LIMITS, requests=1))
    assert not took(session, 2, limits=replace(LIMITS, requests=1))
    assert took(session, 2, limits=replace(LIMITS, transfer_bytes=2 * LENGTH))
    assert not took(session, 3, limits=replace(LIMITS, transfer_bytes=3 * LENGTH - 1))
    assert counted(session) == (2, 2, 2 * LENGTH)


def test_an_epoch_beyond_the_allowance_is_left_to_the_long_way(session: Session) -> None:
    Session.objects.update(epoch=session.first_epoch + LIMITS.epochs)
    session.epoch = session.first_epoch + LIMITS.epochs
    assert not took(session)


def test_the_usual_request_leaves_the_wrapped_chain_alone(line: Line) -> None:
    before = bytes(Session.objects.get().wrapped_secret)
    assert line.ask().status == 200
    row = Session.objects.get()
    assert (row.highest_sequence, row.requests, bytes(row.wrapped_secret)) == (1, 1, before)


def test_who_loses_the_race_for_a_number_gets_the_stored_answer(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes twice at once: the second was opened before the first was accepted."""
    request, answers = line.seal(), []
    accept = exchanges.take_number

    def after_the_other(*arguments: object, **options: object) -> bool:
        monkeypatch.setattr(exchanges, "take_number", accept)
        answers.append(line.send(request))
        return bool(accept(*arguments, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(exchanges, "take_number", after_the_other)
    answers.append(line.send(request))
    assert answers[0].content == answers[1].content
    assert (Session.objects.get().requests, Exchange.objects.count()) == (1, 1)


def test_answers_behind_the_window_are_refused_at_once_and_forgotten_every_so_often(line: Line) -> None:
    for sequence in (1, SEQUENCE_WINDOW, SEQUENCE_WINDOW + 1):
        line.ask(sequence=sequence)
    assert Exchange.objects.filter(sequence=1).exists()
    assert_refused(line.ask(sequence=1), "sequence-too-old")
    line.ask(sequence=SEQUENCE_WINDOW + FORGOTTEN_EVERY)
    assert not Exchange.objects.filter(sequence=1).exists()
    assert Exchange.objects.count() == 3


def test_the_setting_goes_with_the_transaction(session: Session) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no settings to forget")
    with confined_transaction() as confine:
        confine(session.device.id)
        assert _setting() == str(session.device.id)
    assert _setting() == ""


def _setting() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting('qflare.device_id', true), '')")
        return str(cursor.fetchone()[0])
