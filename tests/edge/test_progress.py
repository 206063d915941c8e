"""What a training reports keeps its device's lease, whatever numbers it reports."""

import math

import pytest
from django.utils import timezone

from edge_client.device_state import DeviceStateFile
from edge_client.progress import ProgressReporter
from edge_client.trainer import Progress, TrainingStopped
from qflare_protocol.errors import Refusal
from tests.people import OPERATOR, Person
from training.models import Participation, Round
from training.services.rounds import cancel_round

OUT_OF_FORM = {
    "loss": Progress(0.5, 2e12),
    "fraction": Progress(math.nan),
    "metrics": Progress(0.5, 1.0, {f"m{number}": 1.0 for number in range(33)}),
    "name": Progress(0.5, 1.0, {"n" * 65: 1.0}),
}


def due(person: Person, round_: Round) -> ProgressReporter:
    """Return a reporter whose first report is due."""
    times = iter(range(0, 10_000, 1000))
    return ProgressReporter(person.session(), round_.id.bytes, clock=lambda: next(times))


@pytest.mark.parametrize("progress", OUT_OF_FORM.values(), ids=OUT_OF_FORM)
def test_numbers_out_of_form_cost_no_lease(running: Round, alice: Person, progress: Progress) -> None:
    due(alice, running).watch(progress)
    part = Participation.objects.get(device=alice.device)
    assert part.progress_lease_until is not None and part.loss is None


def test_a_cancelled_round_is_noticed_also_then(running: Round, alice: Person) -> None:
    reporter = due(alice, running)
    cancel_round(running.id, reason="a wrong deadline", actor=OPERATOR, now=timezone.now())
    with pytest.raises(TrainingStopped, match="wrong deadline"):
        reporter.watch(OUT_OF_FORM["loss"])


def test_an_incident_with_the_log_ends_the_training(running: Round, alice: Person) -> None:
    DeviceStateFile(alice.home).keep_log_incident({"reason": "log-inconsistent: forked"})
    with pytest.raises(Refusal) as found:
        due(alice, running).watch(Progress(0.5))
    assert found.value.code == "log-inconsistent"


def test_a_refusal_that_nobody_vouches_for_ends_no_training(running: Round, alice: Person) -> None:
    alice.device.__class__.objects.filter(pk=alice.device.pk).update(state="suspended")
    due(alice, running).watch(Progress(0.5))
    assert Participation.objects.get(device=alice.device).progress_lease_until is None
