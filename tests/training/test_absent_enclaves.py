"""Rounds whose enclave host does not come back."""

from datetime import timedelta

import pytest
from django.utils import timezone

from audit.models import Event
from enclave.models import EnclaveInstance
from tests.open_rounds import Submission, make_federation, started
from training.models import ParticipationState, RangeStep, RangeStepKind, Round, RoundState, Update
from training.services.rounds import MAX_RESTARTS, close_round, take_lease
from training.services.steps import prepare_round
from training.services.tick import Dispatch, tick

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=30)
ABSENT = timedelta(seconds=900)


def run_tick(now):
    prepared, aggregated = [], []
    tick(Dispatch(prepared.append, aggregated.append, [].append, [].append), now=now)
    return prepared, aggregated


def watch(now, time):
    """Tick twice a minute for so long, and return when that was over."""
    for seconds in range(0, int(time.total_seconds()) + 1, 30):
        run_tick(now + timedelta(seconds=seconds))
    return now + time


@pytest.fixture
def waiting(running, alice, carol, dave):
    """A round that was closed with three updates a minute ago, and whose host has done nothing for an hour."""
    for person in (alice, carol, dave):
        Submission(running, person).hand_in(person.line())
    assert close_round(running.id, now=timezone.now() - timedelta(minutes=1))
    EnclaveInstance.objects.update(prepared_at=timezone.now() - timedelta(hours=1))
    running.refresh_from_db()
    return running


def state_of(round_):
    round_.refresh_from_db()
    return round_.state


def test_a_round_whose_host_is_gone_begins_anew_and_asks_every_device_again(waiting, alice):
    now = watch(timezone.now(), ABSENT)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.restarts, waiting.submissions) == (RoundState.PENDING, 1, 0)
    assert (waiting.unattended_at, waiting.unattended_seconds) == (None, 0)
    assert not Update.objects.exists()
    assert set(waiting.participations.values_list("state", flat=True)) == {ParticipationState.INVITED}
    event = Event.objects.get(kind="round.restarted")
    assert "has taken no step of any round for 900 seconds" in event.payload["reason"]
    assert EnclaveInstance.objects.get().wrapped_keys is None
    assert run_tick(now) == ([waiting.id], [])
    assert prepare_round(waiting.id, now=now)
    assert alice.line().ask().message["round"]["round_id"] == waiting.id.bytes


def test_until_then_it_waits_for_its_host_which_takes_the_step_up_as_before(waiting):
    now = watch(timezone.now(), ABSENT - timedelta(seconds=30))
    assert run_tick(now) == ([], [waiting.id])
    assert state_of(waiting) == RoundState.AGGREGATING
    assert take_lease(waiting.id, RoundState.AGGREGATING, lease_time=LEASE, now=now)
    now = watch(now + LEASE, ABSENT - timedelta(seconds=30))
    assert state_of(waiting) == RoundState.AGGREGATING
    watch(now, timedelta(seconds=30))
    assert state_of(waiting) == RoundState.PENDING


def test_time_in_which_the_site_was_down_does_not_count(waiting):
    now = watch(timezone.now(), ABSENT - timedelta(seconds=90))
    run_tick(now + timedelta(days=1))
    waiting.refresh_from_db()
    assert (waiting.state, waiting.unattended_seconds) == (RoundState.AGGREGATING, 870)


def test_how_long_is_set_by_the_site(waiting, settings):
    settings.QFLARE_ENCLAVE_ABSENT_SECONDS = 60
    watch(timezone.now(), timedelta(seconds=60))
    assert state_of(waiting) == RoundState.PENDING


def test_a_round_that_began_anew_too_often_fails_and_says_why(waiting):
    Round.objects.update(restarts=MAX_RESTARTS)
    watch(timezone.now(), ABSENT)
    assert state_of(waiting) == RoundState.FAILED
    assert "The enclave host that holds the round's keys" in waiting.end_reason


def test_a_host_that_works_on_another_round_is_not_gone(waiting):
    other = started(make_federation("other"))
    EnclaveInstance.objects.update(prepared_at=waiting.closed_at)
    now = timezone.now()
    Round.objects.filter(id=other.id).update(
        state=RoundState.AGGREGATING, closed_at=now, lease_expires_at=now + 3 * ABSENT
    )
    now = watch(now, 2 * ABSENT)
    assert state_of(waiting) == RoundState.AGGREGATING
    EnclaveInstance.objects.filter(round_id=other.id).update(attestation_key=b"another host")
    watch(now, ABSENT)
    assert state_of(waiting) == RoundState.PENDING


def test_a_host_that_prepares_rounds_is_not_gone(waiting):
    now = timezone.now()
    for _ in range(60):
        EnclaveInstance.objects.update(prepared_at=now)
        now = watch(now, timedelta(seconds=30))
    assert state_of(waiting) == RoundState.AGGREGATING


def test_a_host_that_works_on_a_range_is_not_gone(waiting):
    now = timezone.now()
    step = RangeStep.objects.create(
        round=waiting, kind=RangeStepKind.READ, range_index=0, attempts=1, lease_expires_at=now + 2 * ABSENT
    )
    now = watch(now, 2 * ABSENT - timedelta(seconds=30))
    assert state_of(waiting) == RoundState.AGGREGATING
    watch(now, ABSENT + timedelta(seconds=30))
    assert state_of(waiting) == RoundState.PENDING
    assert not RangeStep.objects.filter(id=step.id).exists()


def test_of_rounds_that_are_not_closed_none_is_missed(running):
    EnclaveInstance.objects.update(prepared_at=timezone.now() - timedelta(hours=1))
    Round.objects.update(deadline_at=timezone.now() + timedelta(days=1))
    watch(timezone.now(), ABSENT)
    assert state_of(running) == RoundState.OPEN
