"""Taking an update out of its round by hand."""

import uuid

import pytest
from django.db import transaction
from django.utils import timezone

from audit.models import Event
from qflare_protocol.errors import Refusal
from tests.open_rounds import Submission, make_federation, send_submission, started
from tests.people import OPERATOR, assert_refused, nothing_changed
from tests.training.whole_rounds import HONEST, aggregated, destroyed_round_keys, fleet, sealed
from training.models import Participation, ParticipationState, Round, RoundState, Update
from training.services.quarantine import QUARANTINED, quarantine_update
from training.services.rounds import cancel_round, close_round, restart_round
from training.services.steps import prepare_round

__all__ = ["destroyed_round_keys", "fleet"]

pytestmark = pytest.mark.django_db


def hand_in(round_, person):
    Submission(round_, person, sealed(round_, person, HONEST)).hand_in(person.line())
    return Participation.objects.get(round=round_, device=person.device)


def take_out(part, reason="the ward's probe was unplugged"):
    return quarantine_update(part.id, reason=reason, actor=OPERATOR, now=timezone.now())


@pytest.mark.usefixtures("destroyed_round_keys")
def test_the_enclave_never_sees_an_update_that_was_taken_out(fleet):
    round_ = started(make_federation())
    parts = [hand_in(round_, person) for person in fleet]
    assert take_out(parts[0]).state == ParticipationState.REJECTED
    assert close_round(round_.id, now=timezone.now())
    round_ = aggregated(round_)
    assert round_.state == RoundState.COMPLETED
    completed = Event.objects.get(kind="round.completed").payload
    assert (completed["accepted"], completed["rejected"]) == (3, 0)
    left_out = Participation.objects.get(id=parts[0].id)
    assert (left_out.state, left_out.reason, left_out.scores) == (ParticipationState.REJECTED, QUARANTINED, {})


def test_the_receipt_stays_and_the_event_says_who_and_why(running, alice):
    part = hand_in(running, alice)
    take_out(part)
    assert Update.objects.get(participation=part).receipt
    event = Event.objects.get(kind="update.quarantined")
    assert event.actor == OPERATOR
    assert event.payload["reason"] == "the ward's probe was unplugged"
    running.refresh_from_db()
    assert (running.submissions, running.failures) == (0, 1)


def test_the_device_that_hands_in_again_gets_its_receipt_and_changes_nothing(running, alice):
    body, line = Submission(running, alice, sealed(running, alice, HONEST)).body(), alice.line()
    receipt = send_submission(line, body).message["receipt"]
    part = take_out(Participation.objects.get(round=running, device=alice.device))
    assert send_submission(line, body).message["receipt"] == receipt
    part.refresh_from_db()
    assert part.state == ParticipationState.REJECTED


def test_a_round_that_begins_anew_does_not_ask_the_device_again(fleet, enclave_here):
    round_, line = started(make_federation()), fleet[0].line()
    body = Submission(round_, fleet[0]).body()
    receipt = send_submission(line, body).message["receipt"]
    take_out(Participation.objects.get(round=round_, device=fleet[0].device))
    for person in fleet[1:]:
        hand_in(round_, person)
    begin_anew(round_)
    round_.refresh_from_db()
    assert (round_.state, round_.submissions, round_.failures) == (RoundState.OPEN, 0, 1)
    part = Participation.objects.get(round=round_, device=fleet[0].device)
    assert (part.state, part.reason) == (ParticipationState.REJECTED, QUARANTINED)
    assert line.ask().message["round"] is None
    assert_refused(Submission(round_, fleet[0]).hand_in(line), "already-submitted")
    assert send_submission(line, body).message["receipt"] == receipt
    assert fleet[1].line().ask().message["round"]["round_id"] == round_.id.bytes


def test_a_round_that_lacks_its_minimum_without_them_ends_when_it_begins_anew(running, alice):
    take_out(hand_in(running, alice))
    begin_anew(running)
    assert close_round(running.id, now=timezone.now())
    running.refresh_from_db()
    assert running.state == RoundState.FAILED


def begin_anew(round_):
    """Let the round's keys be lost once it is closed, and prepare another enclave for it."""
    holder = uuid.uuid4()
    Round.objects.filter(id=round_.id).update(state=RoundState.AGGREGATING, lease_holder=holder)
    with transaction.atomic():
        assert restart_round(round_.id, holder, reason="its keys were lost", now=timezone.now())
    assert prepare_round(round_.id, now=timezone.now())


def test_a_reason_is_asked_for(running, alice):
    part = hand_in(running, alice)
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        take_out(part, reason="  ")


def test_what_was_not_handed_in_cannot_be_taken_out(running, alice):
    part = Participation.objects.get(round=running, device=alice.device)
    with nothing_changed(), pytest.raises(Refusal, match="no update to take out"):
        take_out(part)
    with nothing_changed(), pytest.raises(Refusal, match="not-found"):
        quarantine_update(part.id + 1000, reason="x", actor=OPERATOR, now=timezone.now())


def test_nothing_is_taken_out_twice_or_of_a_round_that_is_over(running, alice, carol):
    part, other = hand_in(running, alice), hand_in(running, carol)
    take_out(part)
    with nothing_changed(), pytest.raises(Refusal, match="conflict"):
        take_out(part)
    cancel_round(running.id, reason="a test", actor=OPERATOR, now=timezone.now())
    with nothing_changed(), pytest.raises(Refusal, match="not open any more"):
        take_out(other)
