"""Released versions, going back to an earlier one, and training that ends by its metric."""

import uuid
from collections.abc import Iterator
from itertools import count

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from audit.models import Event
from qflare_protocol.errors import Refusal
from tests.factories import make_completed_round, make_device
from tests.open_rounds import make_federation
from tests.people import OPERATOR, assert_refused, nothing_changed
from tests.training.whole_rounds import together
from training.models import CarriedRow, Federation, ModelVersion, Participation, Round, Update
from training.services import participation
from training.services.early_stopping import reason_to_stop, reported_metrics, stop_when_due
from training.services.federations import next_version_number, restore_version
from training.services.model_release import release_version, roll_back
from training.services.participation import model_for
from training.services.round_sources import load_model
from training.services.rounds import open_round
from training.terms import Terms


@pytest.fixture
def three_versions(db):
    """A federation with the versions 0 to 2."""
    for number in range(4):
        make_device(f"device-{number}")
    federation = make_federation()
    for _ in range(2):
        federation.refresh_from_db()
        make_completed_round(federation, rejected="device-3", accuracy=0.9, now=timezone.now())
    federation.refresh_from_db()
    return federation


def version(federation, number):
    return federation.versions.get(number=number)


def release(federation, number):
    return release_version(version(federation, number).id, actor=OPERATOR, now=timezone.now())


def back(federation, number=1, reason="it forgets", continue_training=False):
    return roll_back(
        federation.id, number=number, reason=reason, continue_training=continue_training, actor=OPERATOR,
        now=timezone.now(),
    )  # fmt: skip


def released(federation):
    return list(federation.versions.filter(released_at__isnull=False).values_list("number", flat=True))


@pytest.mark.django_db
class TestReleasing:
    def test_one_version_is_released(self, three_versions):
        release(three_versions, 1)
        release(three_versions, 2)
        assert released(three_versions) == [2]
        payloads = [event.payload for event in Event.objects.filter(kind="model.released").order_by("id")]
        assert [(payload["version"], payload["instead_of"]) for payload in payloads] == [(1, None), (2, 1)]

    def test_the_database_itself_refuses_a_second_one(self, three_versions):
        release(three_versions, 1)
        with pytest.raises(IntegrityError), transaction.atomic():
            ModelVersion.objects.update(released_at=timezone.now())

    def test_the_released_one_is_not_released_again(self, three_versions):
        release(three_versions, 1)
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            release(three_versions, 1)

    def test_a_version_there_is_not_is_refused(self, three_versions):
        with nothing_changed(), pytest.raises(Refusal, match="not-found"):
            release_version(10**6, actor=OPERATOR, now=timezone.now())


@pytest.mark.django_db
class TestGoingBack:
    def test_an_earlier_version_is_released_again_and_training_goes_on(self, three_versions):
        release(three_versions, 2)
        back(three_versions)
        three_versions.refresh_from_db()
        assert (released(three_versions), three_versions.current_version.number) == ([1], 2)
        event = Event.objects.get(kind="model.rolled_back")
        assert (event.payload["reason"], event.payload["instead_of"], event.payload["version"]) == ("it forgets", 2, 1)

    def test_training_goes_on_from_it_where_that_is_asked(self, three_versions):
        release(three_versions, 2)
        latest = three_versions.rounds.order_by("-number")[0]
        CarriedRow.objects.create(
            federation=three_versions, name="momentum", enclave_key_id=b"k", blob_digest="0" * 64, blob_bytes=1,
            round=latest,
        )  # fmt: skip
        back(three_versions, continue_training=True)
        opened = open_round(three_versions.id, actor=OPERATOR, now=timezone.now())
        restored = opened.base_version
        assert (restored.number, restored.restored_from.number) == (3, 1)
        assert bytes(restored.digest) == bytes(version(three_versions, 1).digest)
        assert load_model(restored) == load_model(version(three_versions, 1))
        assert next_version_number(three_versions.id) == 4
        assert not CarriedRow.objects.exists()

    def test_a_device_is_given_the_restored_model_with_a_new_number_and_its_makers_word(
        self, three_versions, alice, monkeypatch
    ):
        monkeypatch.setattr(participation, "evidence_of", lambda round_id: b"evidence of " + round_id.bytes)
        release(three_versions, 2)
        back(three_versions, continue_training=True)
        answer = model_for(alice.device, three_versions.id, None, now=timezone.now())
        maker = version(three_versions, 1).produced_by.id.bytes
        assert (answer["version"], answer["round_id"], answer["evidence"]) == (3, maker, b"evidence of " + maker)

    def test_training_does_not_go_on_from_the_operators_own_model_or_in_a_finished_federation(self, three_versions):
        release(three_versions, 2)
        with nothing_changed(), pytest.raises(Refusal, match="No enclave made"):
            back(three_versions, number=0, continue_training=True)
        Federation.objects.update(state="finished")
        with nothing_changed(), pytest.raises(Refusal, match="finished"):
            back(three_versions, continue_training=True)

    def test_training_does_not_go_back_under_a_running_round(self, three_versions):
        release(three_versions, 2)
        open_round(three_versions.id, actor=OPERATOR, now=timezone.now())
        with nothing_changed(), pytest.raises(Refusal, match="A round runs"):
            back(three_versions, continue_training=True)
        assert back(three_versions).number == 1

    @pytest.mark.parametrize(
        ("changes", "code"), [({"number": 9}, "no-model"), ({"number": 2}, "conflict"), ({"reason": " "}, "conflict")]
    )
    def test_what_is_no_way_back_is_refused(self, three_versions, changes, code):
        release(three_versions, 2)
        with nothing_changed(), pytest.raises(Refusal, match=code):
            back(three_versions, **changes)

    def test_without_a_release_there_is_no_way_back(self, three_versions):
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            back(three_versions)

    def test_an_unknown_federation_is_refused(self, db):
        with nothing_changed(), pytest.raises(Refusal, match="not-found"):
            back(Federation(id=uuid.uuid4()))


@pytest.mark.django_db(transaction=True)
def test_of_many_releases_at_once_one_stands(three_versions):
    together(lambda: release(three_versions, 1), lambda: release(three_versions, 2), lambda: release(three_versions, 0))
    assert len(released(three_versions)) == 1
    assert Event.objects.filter(kind="model.released").count() == 3


@pytest.mark.django_db(transaction=True)
def test_of_a_way_back_and_an_opening_at_once_no_round_starts_from_what_was_left(three_versions):
    release(three_versions, 2)
    together(
        lambda: back(three_versions, continue_training=True),
        lambda: open_round(three_versions.id, actor=OPERATOR, now=timezone.now()),
    )
    three_versions.refresh_from_db()
    assert Round.objects.unfinished().get().base_version == three_versions.current_version


@pytest.mark.django_db
class TestAskingForIt:
    def ask(self, line, federation, more):
        return line.ask(f"/api/global_model?federation={federation.id}{more}", method="GET", body=b"", content_type="")

    def test_a_device_gets_the_released_version(self, federation, alice):
        line = alice.line()
        assert_refused(self.ask(line, federation, "&released=1"), "no-model")
        release(federation, 0)
        assert self.ask(line, federation, "&released=1").message["version"] == 0

    @pytest.mark.parametrize("more", ["&released=", "&released=2", "&released=1&version=0"])
    def test_a_query_out_of_form_is_refused(self, federation, alice, more):
        line = alice.line()
        with nothing_changed():
            assert_refused(self.ask(line, federation, more), "malformed-message")


def terms(**stop):
    return Federation(stop_metric="accuracy", **stop)


@pytest.mark.parametrize(
    ("stop", "values", "because"),
    [
        ({"stop_goal": 0.9}, [], ""),
        ({"stop_goal": 0.9}, [0.5, 0.89], ""),
        ({"stop_goal": 0.9}, [0.5, 0.9], "accuracy is 0.9, its goal was 0.9"),
        ({"stop_goal": 0.1, "stop_direction": "minimise"}, [0.5, 0.2], ""),
        ({"stop_goal": 0.1, "stop_direction": "minimise"}, [0.5, 0.05], "accuracy is 0.05, its goal was 0.1"),
        ({"stop_patience": 2}, [0.5, 0.6, 0.6], ""),
        ({"stop_patience": 2}, [0.5, 0.6, 0.6, 0.5], "accuracy did not improve on 0.6 for 2 versions"),
        ({"stop_patience": 1, "stop_direction": "minimise"}, [0.5, 0.4], ""),
        ({"stop_patience": 1, "stop_direction": "minimise"}, [0.5, 0.7], "accuracy did not improve on 0.5 for 1 ver"),
    ],
)
def test_training_ends_by_goal_or_patience(stop, values, because):
    reason = reason_to_stop(terms(**stop), values)
    assert reason.startswith(because)
    assert bool(reason) == bool(because)


@given(st.lists(st.floats(-100, 100), min_size=1), st.integers(1, 5))
def test_patience_is_never_lost_while_values_rise(values, patience):
    rising = sorted(set(values))
    assert reason_to_stop(terms(stop_patience=patience), rising) == ""
    assert reason_to_stop(terms(stop_patience=patience, stop_direction="minimise"), rising) == (
        "" if len(rising) <= patience else f"accuracy did not improve on {rising[0]:g} for {patience} versions"
    )


@pytest.mark.django_db
def test_a_federation_finishes_once_and_says_why(three_versions):
    Federation.objects.filter(id=three_versions.id).update(stop_metric="accuracy", stop_goal=0.8)
    Federation.objects.filter(id=three_versions.id).update(evaluator="example:Evaluator")
    stop_when_due(three_versions.id)
    stop_when_due(three_versions.id)
    three_versions.refresh_from_db()
    assert (three_versions.state, three_versions.finish_reason) == ("finished", "accuracy is 0.9, its goal was 0.8")
    assert Event.objects.get(kind="federation.finished").payload["reason"] == three_versions.finish_reason
    with nothing_changed(), pytest.raises(Refusal, match="finished"):
        open_round(three_versions.id, actor=OPERATOR, now=timezone.now())


@pytest.mark.django_db
def test_a_restored_version_has_the_metric_that_either_of_its_rows_has(three_versions):
    Federation.objects.update(evaluator="example:Evaluator")
    original = three_versions.versions.get(number=1)
    original.metrics = {}
    original.save()
    with transaction.atomic():
        restored = restore_version(original, actor=OPERATOR, now=timezone.now())
    Federation.objects.update(current_version=restored, stop_metric="accuracy", stop_goal=0.8)
    stop_when_due(three_versions.id)
    three_versions.refresh_from_db()
    assert three_versions.state == "active"
    ModelVersion.objects.filter(id=restored.id).update(metrics={"accuracy": 0.85})
    stop_when_due(three_versions.id)
    three_versions.refresh_from_db()
    assert (three_versions.state, three_versions.finish_reason) == ("finished", "accuracy is 0.85, its goal was 0.8")


@pytest.mark.django_db
def test_the_line_of_versions_is_read_without_what_made_them(three_versions):
    Federation.objects.update(evaluator="example:Evaluator", stop_metric="accuracy", stop_goal=2.0)
    with CaptureQueriesContext(connection) as sent:
        stop_when_due(three_versions.id)
    assert not [query["sql"] for query in sent if '"provenance"' in query["sql"]]


@pytest.mark.django_db
def test_without_an_evaluator_the_metric_is_what_most_accepted_devices_report(three_versions):
    latest = three_versions.rounds.order_by("-number")[0]
    accepted = Participation.objects.filter(round=latest, state="accepted").order_by("id")
    values: Iterator[float] = count(1)
    for part in accepted:
        Update.objects.filter(participation=part).update(metrics={"loss": next(values)})
    Update.objects.filter(participation=accepted[0]).update(metrics={"loss": 1e12, "rare": 5})
    assert reported_metrics(latest) == {"loss": 3}


@pytest.mark.parametrize(
    "stop",
    [
        {"stop_metric": "accuracy"}, {"stop_goal": 0.5}, {"stop_patience": 3},
        {"stop_metric": "accuracy", "stop_patience": 0}, {"stop_metric": "accuracy", "stop_goal": float("nan")},
        {"stop_metric": "two\nlines", "stop_goal": 0.5},
        {"stop_metric": "accuracy", "stop_goal": 1.0, "stop_direction": "up"},
    ],
    ids=str,
)  # fmt: skip
def test_a_stop_that_does_not_hold_is_refused(stop):
    with pytest.raises(Refusal, match="policy-refused"):
        Terms(**stop)
