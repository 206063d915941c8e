"""The tick dispatches what is due, again and again until somebody has done it."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.open_rounds import make_federation
from training.models import Federation, Round, RoundState
from training.services import rounds
from training.services.tick import Dispatch, tick


class Dispatched:
    """Remembers what was handed to workers."""

    def __init__(self) -> None:
        self.prepared: list[uuid.UUID] = []
        self.aggregated: list[uuid.UUID] = []
        self.evaluated: list[int] = []

    def at(self, now: object) -> "Dispatched":
        ranges: list[int] = []
        handed = Dispatch(self.prepared.append, self.aggregated.append, ranges.append, self.evaluated.append)
        tick(handed, now=now)  # type: ignore[arg-type]
        return self


def test_a_pending_round_is_dispatched_until_a_worker_holds_it(running: Round) -> None:
    now = timezone.now()
    Round.objects.filter(id=running.id).update(state=RoundState.PENDING)
    assert Dispatched().at(now).at(now).prepared == [running.id] * 2
    holder = rounds.take_lease(running.id, RoundState.PENDING, lease_time=timedelta(seconds=10), now=now)
    assert holder is not None
    assert Dispatched().at(now).prepared == []
    assert Dispatched().at(now + timedelta(seconds=11)).prepared == [running.id]


def test_a_round_at_its_target_is_closed_and_its_aggregation_dispatched(running: Round) -> None:
    Round.objects.filter(id=running.id).update(submissions=running.target_updates)
    dispatched = Dispatched().at(timezone.now())
    running.refresh_from_db()
    assert running.state == RoundState.AGGREGATING
    assert dispatched.aggregated == [running.id]


def test_an_open_round_before_its_deadline_is_left_alone(running: Round) -> None:
    dispatched = Dispatched().at(timezone.now())
    running.refresh_from_db()
    assert running.state == RoundState.OPEN
    assert dispatched.prepared == dispatched.aggregated == []


@pytest.mark.django_db
def test_an_unevaluated_version_is_dispatched() -> None:
    version = make_federation(evaluator="tests.edge.trainers:SmallTrainer").current_version
    assert Dispatched().at(timezone.now()).evaluated == [version.id]


def fail_latest(federation: Federation) -> Round:
    latest = federation.rounds.order_by("-number")[0]
    now = timezone.now()
    Round.objects.filter(id=latest.id).update(state=RoundState.FAILED, finished_at=now, end_reason="test")
    return latest


def test_the_schedule_waits_longer_after_each_failure(running: Round) -> None:
    federation, now = running.federation, timezone.now()
    fail_latest(federation)
    with pytest.raises(Exception, match="next is opened in 2 s"):
        rounds.open_scheduled_round(federation.id, now=now)
    again = rounds.open_scheduled_round(federation.id, now=now + timedelta(seconds=3))
    assert again.number == running.number + 1
    fail_latest(federation)
    with pytest.raises(Exception, match="last 2 rounds failed; the next is opened in 4 s"):
        rounds.open_scheduled_round(federation.id, now=now + timedelta(seconds=3))
