"""The clock of the site jumps by an hour: rounds end, sessions are renewed, nothing is taken twice."""

import uuid
from datetime import timedelta

import numpy as np
import pytest
import time_machine
from django.utils import timezone

from audit.models import Event
from edge_client.device_state import DeviceStateFile
from edge_client.round_worker import RoundWorker
from edge_client.training import TrainingHere
from tests.open_rounds import Submission, make_federation, send_submission, started
from tests.people import assert_refused, nothing_changed
from tests.system.running_site import KnownUpdateTrainer
from training.models import RangeStep, RangeStepKind, Round, RoundState, Update
from training.services.evaluation import due_evaluations
from training.services.rounds import cancel_round, close_round, take_lease

HOUR = timedelta(hours=1)
LEASE = timedelta(seconds=30)

pytestmark = pytest.mark.django_db


@pytest.fixture
def workers(alice, carol, dave, enclave_here):
    """Devices with the real client, each over sessions that outlive the rounds."""
    trainer = KnownUpdateTrainer({"w": np.ones((4, 3), np.float32)}, 10)
    people = (alice, carol, dave)
    return [RoundWorker(p.http, p.keeper, DeviceStateFile(p.home), TrainingHere(lambda _: trainer)) for p in people]


@pytest.mark.parametrize("jumps", [(HOUR, -HOUR), (-HOUR, HOUR), (-HOUR, -HOUR)], ids=str)
def test_devices_go_on_over_a_jump_and_each_update_counts_once(workers, jumps):
    federation, at = make_federation(), timezone.now()
    for jump in (timedelta(), *jumps):
        at += jump
        with time_machine.travel(at, tick=True):
            round_ = started(federation)
            for worker in workers:
                assert worker.work_once()[0]
                assert not worker.work_once()[0]
            assert close_round(round_.id, now=timezone.now())
            round_.refresh_from_db()
            assert (round_.state, round_.submissions) == (RoundState.AGGREGATING, 3)
            assert Update.objects.filter(participation__round=round_).count() == 3
            cancel_round(round_.id, reason="the next one", actor="operator:test", now=timezone.now())
    assert Event.objects.filter(kind="update.received").count() == 9


def test_a_request_from_before_a_jump_back_is_answered_as_it_was_and_counted_once(running, alice):
    with time_machine.travel(timezone.now(), tick=True) as clock:
        line, body = alice.line(), Submission(running, alice).body()
        receipt = send_submission(line, body).message["receipt"]
        clock.shift(-HOUR)
        assert send_submission(alice.line(), body).message["receipt"] == receipt
    assert Round.objects.get().submissions == 1
    assert Event.objects.filter(kind="update.received").count() == 1


def test_a_jump_forward_ends_a_round_with_what_it_has(running, alice):
    with time_machine.travel(timezone.now(), tick=True) as clock:
        Submission(running, alice).hand_in(alice.line())
        clock.shift(2 * HOUR)
        late = Submission(running, alice, claims={"sample_count": 3})
        line = alice.line()
        with nothing_changed():
            assert_refused(late.hand_in(line), "already-submitted")
        assert close_round(running.id, now=timezone.now())
    running.refresh_from_db()
    assert running.state == RoundState.FAILED
    assert "before the deadline" in running.end_reason


def test_the_lease_of_a_dead_worker_does_not_outlive_a_jump_back(running):
    now = timezone.now()
    Round.objects.update(state=RoundState.AGGREGATING)
    assert take_lease(running.id, RoundState.AGGREGATING, lease_time=LEASE, now=now)
    assert take_lease(running.id, RoundState.AGGREGATING, lease_time=LEASE, now=now - timedelta(seconds=20)) is None
    assert take_lease(running.id, RoundState.AGGREGATING, lease_time=LEASE, now=now - HOUR)


def test_the_range_of_a_dead_worker_does_not_outlive_a_jump_back(running):
    now = timezone.now()
    Round.objects.update(state=RoundState.AGGREGATING)
    RangeStep.objects.create(
        round=running, kind=RangeStepKind.READ, range_index=0, lease_holder=uuid.uuid4(), lease_expires_at=now + LEASE
    )
    assert not RangeStep.objects.awaiting_worker(now - timedelta(seconds=20)).exists()
    assert RangeStep.objects.awaiting_worker(now - HOUR).exists()


def test_the_evaluation_of_a_dead_worker_does_not_outlive_a_jump_back(settings):
    now, lease = timezone.now(), timedelta(seconds=2 * settings.QFLARE_EVALUATION_SECONDS)
    version = make_federation(evaluator="tests.edge.trainers:SmallTrainer").current_version
    due_evaluations(now).filter(id=version.id).update(evaluation_lease_expires_at=now + lease)
    assert not due_evaluations(now - timedelta(seconds=20)).exists()
    assert due_evaluations(now - HOUR).exists()
