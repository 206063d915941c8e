"""Devices evaluate versions on what they hold out; the mean is weighted by samples and each device counts once."""

from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.models import Event
from edge_client.device_state import DeviceStateFile
from edge_client.round_worker import RoundWorker
from edge_client.trainer import EvaluationOutcome, TrainingFailed
from edge_client.training import TrainingHere
from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.errors import Refusal
from tests.edge.trainers import SmallTrainer
from tests.open_rounds import make_federation, started
from tests.people import OPERATOR, assert_refused, nothing_changed
from tests.training.whole_rounds import together
from training.models import Federation, FederationState, ModelVersion, VersionEvaluation
from training.services.device_evaluation import evaluation_for, record_evaluation
from training.services.federations import pause_federation
from training.terms import Terms

EVALUATED = Terms(evaluated_by_devices=True)


@pytest.fixture
def evaluated(db, enclave_here):
    """A federation that asks its devices; no round is open."""
    return make_federation(terms=EVALUATED)


def report(federation, samples=10, **metrics):
    return {"federation_id": federation.id.bytes, "version": 0, "sample_count": samples, "metrics": metrics}


def tell(person, federation, samples=10, **metrics):
    return person.line().ask("/api/evaluation", report(federation, samples, **metrics))


def test_a_device_with_nothing_to_train_is_asked_to_evaluate(evaluated, alice):
    answer = alice.line().ask().message
    assert answer["round"] is None
    version = evaluated.current_version
    assert answer["evaluation"] == {
        "federation_id": evaluated.id.bytes, "version": 0, "model_digest": bytes(version.digest),
        "trainer_parameters": {},
    }  # fmt: skip


def test_training_comes_first(evaluated, alice, carol, dave):
    started(evaluated)
    assert "evaluation" not in alice.line().ask().message


def test_the_mean_is_weighted_by_samples_and_each_device_counts_once(evaluated, alice, carol, dave):
    assert tell(alice, evaluated, 10, accuracy=0.5, loss=1.0).message == {"recorded": True}
    assert tell(carol, evaluated, 30, accuracy=0.9).message == {"recorded": True}
    assert tell(alice, evaluated, 1000, accuracy=0.0).message == {"recorded": False}
    version = ModelVersion.objects.get()
    assert version.device_metrics == {"accuracy": pytest.approx(0.8), "loss": 1.0}
    assert version.evaluations == 2
    assert "evaluation" not in alice.line().ask().message
    event = Event.objects.filter(kind="model.evaluated_by_device").latest("id")
    assert (event.actor, event.payload["device"], event.payload["sample_count"]) == ("device:carol", "carol", 30)


def test_a_report_reads_no_provenance_which_grows_with_the_devices(evaluated, alice):
    with CaptureQueriesContext(connection) as asked:
        assert evaluation_for(alice.device)
        assert record_evaluation(alice.device, DeviceEvaluation(**report(evaluated, accuracy=0.5)), now=timezone.now())
    assert len(asked) > 3
    assert not [query["sql"] for query in asked if "provenance" in query["sql"]]


def test_a_device_that_holds_nothing_out_says_so_and_is_not_asked_again(evaluated, alice):
    assert tell(alice, evaluated, 0).message == {"recorded": True}
    assert ModelVersion.objects.get().device_metrics == {}
    assert ModelVersion.objects.get().evaluations == 0
    assert "evaluation" not in alice.line().ask().message


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 7}, "not-found"),
        ({"federation_id": bytes(16)}, "not-found"),
        ({"federation_id": b"short"}, "malformed-message"),
        ({"version": -1}, "malformed-message"),
        ({"version": True}, "malformed-message"),
        ({"sample_count": 0}, "malformed-message"),
        ({"metrics": {}}, "malformed-message"),
        ({"metrics": {"accuracy": float("nan")}}, "malformed-message"),
        ({"sample_count": 1001}, "sample-count-refused"),
        ({"sample_count": -1}, "sample-count-refused"),
        ({"more": 1}, "malformed-message"),
    ],
)
def test_what_is_out_of_form_is_refused_and_changes_nothing(evaluated, alice, changes, code):
    line = alice.line()
    with nothing_changed():
        assert_refused(line.ask("/api/evaluation", report(evaluated, 10, accuracy=0.5) | changes), code)


def test_a_federation_that_does_not_ask_takes_no_reports(federation, alice):
    line = alice.line()
    assert "evaluation" not in line.ask().message
    with nothing_changed():
        assert_refused(line.ask("/api/evaluation", report(federation, accuracy=0.5)), "not-found")


def test_devices_of_another_group_are_neither_asked_nor_heard(alice, enclave_here):
    other = make_federation("other", group="elsewhere", terms=EVALUATED)
    line = alice.line()
    assert "evaluation" not in line.ask().message
    assert_refused(line.ask("/api/evaluation", report(other, accuracy=0.5)), "not-found")


def test_a_paused_federation_asks_nobody_and_a_finished_one_for_its_last_version(evaluated, alice):
    pause_federation(evaluated.id, actor=OPERATOR)
    assert evaluation_for(alice.device) is None
    Federation.objects.update(state=FederationState.FINISHED)
    assert evaluation_for(alice.device) is not None


def test_the_database_keeps_one_report_a_device_and_version(evaluated, alice):
    version = ModelVersion.objects.get()
    members = {"version": version, "device": alice.device, "sample_count": 1, "reported_at": timezone.now()}
    VersionEvaluation.objects.create(**members)
    with pytest.raises(IntegrityError), transaction.atomic():
        VersionEvaluation.objects.create(**members)


@pytest.mark.django_db(transaction=True)
def test_reports_that_race_are_all_in_the_mean(alice, carol, dave):
    federation = make_federation(terms=EVALUATED)
    people = [alice, carol, dave]

    def tell_it(place):
        message = DeviceEvaluation(federation.id.bytes, 0, 10 * (place + 1), {"accuracy": float(place)})
        return record_evaluation(people[place].device, message, now=timezone.now())

    assert together(*(partial(tell_it, place) for place in range(3))) == [True, True, True]
    version = ModelVersion.objects.get()
    assert version.evaluations == 3
    assert version.device_metrics == {"accuracy": pytest.approx((0 * 10 + 1 * 20 + 2 * 30) / 60)}


class EvaluatingTrainer(SmallTrainer):
    """Holds five samples out."""

    def evaluate_here(self, model):
        return EvaluationOutcome(5, {"mean": float(model["w"].mean())})


class DivergedTrainer(SmallTrainer):
    """Measures what is no number."""

    def evaluate_here(self, model):
        return EvaluationOutcome(5, {"loss": float("nan")})


class LavishTrainer(SmallTrainer):
    """Measures on more samples than the policy takes."""

    def evaluate_here(self, model):
        return EvaluationOutcome(1001, {"loss": 1.0})


class EmptyTrainer(SmallTrainer):
    """Measures on nothing."""

    def evaluate_here(self, model):
        return EvaluationOutcome(0, {"loss": 1.0})


class BrokenTraining(TrainingHere):
    """Its evaluation crashes."""

    def evaluate(self, task, folder):
        raise TrainingFailed("ValueError at broken.py:1")


@pytest.mark.parametrize(
    ("training", "samples", "metrics"),
    [
        (TrainingHere(lambda parameters: EvaluatingTrainer(parameters, {})), 5, {"mean": 0.0}),
        (TrainingHere(lambda parameters: SmallTrainer(parameters, {})), 0, {}),
        (TrainingHere(lambda parameters: DivergedTrainer(parameters, {})), 0, {}),
        (TrainingHere(lambda parameters: LavishTrainer(parameters, {})), 0, {}),
        (TrainingHere(lambda parameters: EmptyTrainer(parameters, {})), 0, {}),
        (BrokenTraining(lambda parameters: SmallTrainer(parameters, {})), 0, {}),
    ],
    ids=["holds data out", "holds none", "diverged", "too many samples", "measures on nothing", "crashes"],
)
def test_the_client_evaluates_once_and_reports(evaluated, alice, training, samples, metrics):
    worker = RoundWorker(alice.http, alice.keeper, DeviceStateFile(alice.home), training)
    for _ in range(2):
        assert worker.work_once()[0] is False
    kept = VersionEvaluation.objects.get()
    assert (kept.sample_count, kept.metrics) == (samples, metrics)
    assert list((alice.home / "evaluation").iterdir()) == []


@given(st.dictionaries(st.text(max_size=5), st.floats() | st.integers() | st.none(), max_size=3), st.integers())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_a_report_of_any_content_is_read_or_refused(metrics, samples):
    message = {"federation_id": bytes(16), "version": 1, "sample_count": samples, "metrics": metrics}
    try:
        assert DeviceEvaluation.from_map(message).to_map() == message
    except Refusal as refusal:
        assert refusal.code in ("malformed-message", "sample-count-refused")
