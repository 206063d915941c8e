"""What a device reports of its training, what it is told, and how long a round waits for it."""

import io
import uuid
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.models import Event
from qflare_protocol.errors import Refusal
from qflare_protocol.progress import ProgressReport
from tests.open_rounds import Submission, make_federation, send_submission, started
from tests.people import OPERATOR, assert_refused, nothing_changed
from tests.training.whole_rounds import together
from training.models import Participation, Round, RoundState
from training.services.federations import pause_federation
from training.services.participation import model_for
from training.services.rounds import cancel_round, close_round, extend_round, restart_round
from training.services.steps import prepare_round
from training.services.uploads import begin_upload, receive_piece, record_piece
from training.terms import Terms


def report(round_, **changes):
    members = {"round_id": round_.id.bytes, "state": "training", "fraction": 0.5, "loss": 1.25, "metrics": {"a": 0.5}}
    return members | {"reason": ""} | changes


def tell(line, round_, **changes):
    return line.ask("/api/progress", report(round_, **changes))


@pytest.mark.django_db
class TestReporting:
    def test_a_report_is_kept_and_answered_with_when_to_report_again(self, running, alice):
        answer = tell(alice.line(), running).message
        assert answer == {
            "continue": True, "reason": "", "deadline": int(running.deadline_at.timestamp()), "report_again_seconds": 60
        }  # fmt: skip
        part = Participation.objects.get(device=alice.device)
        assert (part.progress, part.loss, part.progress_metrics) == (0.5, 1.25, {"a": 0.5})
        assert part.progress_lease_until - part.progress_at == timedelta(seconds=180)

    def test_a_report_without_a_loss_keeps_the_last_one(self, running, alice):
        line = alice.line()
        tell(line, running)
        tell(line, running, loss=None, fraction=0.75)
        part = Participation.objects.get(device=alice.device)
        assert (part.progress, part.loss) == (0.75, 1.25)

    def test_the_loss_of_an_update_is_kept_with_the_part(self, running, alice):
        Submission(running, alice).hand_in(alice.line())
        part = Participation.objects.get(device=alice.device)
        assert (part.loss, part.progress_lease_until) == (0.5, None)

    @pytest.mark.parametrize("ended", ["cancelled", "past its deadline", "handed in", "not the device's", "key over"])
    def test_a_device_whose_part_is_over_is_told_to_stop(self, running, alice, ended):
        line, changes = alice.line(), {}
        if ended == "cancelled":
            cancel_round(running.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
        elif ended == "past its deadline":
            Round.objects.update(deadline_at=timezone.now())
        elif ended == "handed in":
            Participation.objects.update(state="submitted")
        elif ended == "key over":
            alice.device.keys.filter(purpose="signature").update(valid_until=timezone.now())
        else:
            changes = {"round_id": uuid.uuid4().bytes}
        answer = tell(line, running, **changes).message
        assert not answer["continue"]
        assert answer["reason"]
        assert ("wrong data" in answer["reason"]) == (ended == "cancelled")
        assert Participation.objects.get(device=alice.device).progress_at is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"round_id": b"short"},
            {"state": "done"},
            {"fraction": 1.5},
            {"fraction": -0.1},
            {"fraction": float("nan")},
            {"fraction": True},
            {"loss": "high"},
            {"loss": float("inf")},
            {"metrics": {"": 1}},
            {"metrics": {"a": float("nan")}},
            {"metrics": {str(n): 1 for n in range(33)}},
            {"reason": "x" * 201},
            {"reason": "two\nlines"},
            {"reason": None},
            {"more": 1},
        ],
        ids=str,
    )
    def test_a_report_out_of_form_is_refused(self, running, alice, changes):
        line = alice.line()
        with nothing_changed():
            assert_refused(tell(line, running, **changes), "malformed-message")


MEMBERS = ["round_id", "state", "fraction", "loss", "metrics", "reason"]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(MEMBERS), st.none() | st.binary(max_size=17) | st.floats() | st.text(max_size=5))
)
def test_whatever_a_report_holds_it_is_read_or_refused(value):
    honest = {"round_id": bytes(16), "state": "training", "fraction": 0.0, "loss": None, "metrics": {}, "reason": ""}
    try:
        read = ProgressReport.from_map(honest | value)
    except Refusal as refusal:
        assert refusal.code == "malformed-message"
    else:
        assert ProgressReport.from_map(read.to_map()) == read


@pytest.mark.django_db
def test_a_reason_of_several_lines_is_told_in_one(running, alice):
    cancel_round(running.id, reason="wrong data\nsee ticket 12 " + "x" * 300, actor=OPERATOR, now=timezone.now())
    reason = tell(alice.line(), running).message["reason"]
    assert "wrong data see ticket 12" in reason
    assert reason.isprintable() and len(reason) <= 200


@pytest.mark.django_db
class TestFailing:
    def test_a_device_that_has_handed_in_does_not_count_as_failed_too(self, running, alice):
        line = alice.line()
        Submission(running, alice).hand_in(line)
        Participation.objects.filter(device=alice.device).update(state="downloaded")  # as a late download may have it
        assert not tell(line, running, state="failed", reason="both").message["continue"]
        running.refresh_from_db()
        assert (running.submissions, running.failures) == (1, 0)

    def test_a_failure_ends_the_part_with_its_reason(self, running, alice):
        line = alice.line()
        answer = tell(line, running, state="failed", reason="out of memory").message
        assert not answer["continue"]
        part = Participation.objects.get(device=alice.device)
        assert (part.state, part.reason) == ("failed", "out of memory")
        event = Event.objects.get(kind="update.failed")
        assert (event.actor, event.payload["reason"]) == ("device:alice", "out of memory")
        assert line.ask().message["round"] is None

    def test_a_failure_is_counted_once(self, running, alice):
        line = alice.line()
        for _ in range(2):
            tell(line, running, state="failed", reason="out of memory")
        assert Round.objects.get().failures == 1
        assert Event.objects.filter(kind="update.failed").count() == 1

    def test_a_device_that_failed_hands_nothing_in(self, running, alice):
        line = alice.line()
        body = Submission(running, alice)
        tell(line, running, state="failed")
        with nothing_changed():
            assert_refused(body.hand_in(line), "not-invited")

    def test_a_failure_after_the_update_changes_nothing(self, running, alice):
        line = alice.line()
        Submission(running, alice).hand_in(line)
        tell(line, running, state="failed")
        assert Participation.objects.get(device=alice.device).state == "submitted"
        assert Round.objects.get().failures == 0

    def test_a_round_that_cannot_reach_its_minimum_any_more_ends_early(self, running, alice):
        tell(alice.line(), running, state="failed")
        assert close_round(running.id, now=timezone.now())
        running.refresh_from_db()
        assert running.state == RoundState.FAILED
        assert running.end_reason == "1 of 3 devices failed to train; the policy needs 3."

    def test_a_round_whose_other_devices_failed_closes_with_what_it_has(self, running, alice):
        Round.objects.update(invited=4, target_updates=4, submissions=3)
        tell(alice.line(), running, state="failed")
        assert close_round(running.id, now=timezone.now())
        running.refresh_from_db()
        assert running.state == RoundState.AGGREGATING


@pytest.fixture
def patient(alice, carol, dave, enclave_here):
    """A round of a federation that puts its deadlines off twice, by ten minutes."""
    return started(make_federation(terms=Terms(extension_seconds=600, maximum_extensions=2)))


def past_its_deadline(round_):
    Round.objects.filter(id=round_.id).update(deadline_at=timezone.now())
    return timezone.now()


@pytest.mark.django_db
class TestWaiting:
    def test_a_round_waits_for_devices_that_train_but_not_for_ever(self, patient, alice):
        tell(alice.line(), patient)
        for extensions in (1, 2):
            now = past_its_deadline(patient)
            assert close_round(patient.id, now=now)
            patient.refresh_from_db()
            assert (patient.state, patient.extensions) == (RoundState.OPEN, extensions)
            assert patient.deadline_at == now + timedelta(seconds=600)
        assert close_round(patient.id, now=past_its_deadline(patient))
        patient.refresh_from_db()
        assert patient.state == RoundState.FAILED
        assert Event.objects.filter(kind="round.extended").count() == 2

    def test_a_device_that_reports_before_a_late_tick_trains_on_and_is_waited_for(self, patient, alice):
        now = past_its_deadline(patient)
        assert tell(alice.line(), patient).message["continue"]
        assert close_round(patient.id, now=now + timedelta(minutes=2))
        patient.refresh_from_db()
        assert (patient.state, patient.extensions) == (RoundState.OPEN, 1)

    def test_before_a_late_tick_an_update_is_taken_whole_or_in_pieces(self, patient, alice, carol):
        lines = alice.line(), carol.line()
        past_its_deadline(patient)
        assert Submission(patient, alice).hand_in(lines[0]).status == 200
        begun = lines[1].ask("/api/uploads", {"manifest": Submission(patient, carol).manifest()}).message
        address = f"/api/uploads/{begun['upload_id'].hex()}"
        assert lines[1].ask(address, method="GET", body=b"", content_type="").message["offset"] == 0

    def test_nobody_begins_in_a_round_past_its_deadline(self, patient, alice):
        line = alice.line()
        past_its_deadline(patient)
        assert line.ask().message["round"] is None

    def test_with_no_extension_left_a_device_is_told_to_stop_at_the_deadline(self, patient, alice):
        line = alice.line()
        Round.objects.update(extensions=2)
        past_its_deadline(patient)
        assert not tell(line, patient).message["continue"]
        assert_refused(Submission(patient, alice).hand_in(line), "round-closed")

    def test_a_round_waits_for_a_device_that_took_the_model(self, patient, alice):
        now = timezone.now()
        model_for(alice.device, patient.federation_id, 0, now=now)
        assert Participation.objects.get(device=alice.device).progress_lease_until == now + timedelta(seconds=180)
        assert close_round(patient.id, now=past_its_deadline(patient))
        patient.refresh_from_db()
        assert (patient.state, patient.extensions) == (RoundState.OPEN, 1)

    def test_a_round_waits_for_a_device_whose_update_arrives_piece_by_piece(self, patient, alice):
        submission, now = Submission(patient, alice), timezone.now()
        upload_id = uuid.UUID(bytes=begin_upload(alice.device, submission.manifest(), now=now)["upload_id"])
        for offset in range(0, 60, 20):
            assert Participation.objects.get(device=alice.device).progress_lease_until == now + timedelta(minutes=3)
            now += timedelta(minutes=2)
            bytes_ = io.BytesIO(submission.sealed[offset : offset + 20])
            piece = receive_piece(alice.device, upload_id, bytes_, offset=offset, length=20, now=now)
            record_piece(alice.device, piece, now=now)
        Round.objects.update(deadline_at=now)
        assert close_round(patient.id, now=now)
        patient.refresh_from_db()
        assert (patient.state, patient.extensions) == (RoundState.OPEN, 1)

    def test_a_piece_that_came_twice_is_no_further_sign(self, patient, alice):
        submission, now = Submission(patient, alice), timezone.now()
        upload_id = uuid.UUID(bytes=begin_upload(alice.device, submission.manifest(), now=now)["upload_id"])
        for moment in (now, now + timedelta(minutes=1)):
            bytes_ = io.BytesIO(submission.sealed[:20])
            piece = receive_piece(alice.device, upload_id, bytes_, offset=0, length=20, now=moment)
            assert record_piece(alice.device, piece, now=moment) == {"offset": 20}
        assert Participation.objects.get(device=alice.device).progress_lease_until == now + timedelta(minutes=3)

    def test_an_upload_that_is_found_again_reads_no_roster(self, patient, alice):
        manifest = Submission(patient, alice).manifest()
        begin_upload(alice.device, manifest, now=timezone.now())
        with CaptureQueriesContext(connection) as sent:
            begin_upload(alice.device, manifest, now=timezone.now())
        assert not [query["sql"] for query in sent if '"roster"' in query["sql"]]

    def test_a_round_does_not_wait_for_devices_that_fell_silent(self, patient, alice):
        tell(alice.line(), patient)
        Participation.objects.update(progress_lease_until=timezone.now())
        close_round(patient.id, now=past_its_deadline(patient))
        patient.refresh_from_db()
        assert patient.state == RoundState.FAILED

    def test_a_federation_without_extensions_does_not_wait(self, running, alice):
        tell(alice.line(), running)
        close_round(running.id, now=past_its_deadline(running))
        running.refresh_from_db()
        assert running.state == RoundState.FAILED

    def test_an_operator_puts_a_deadline_off(self, running):
        extend_round(running.id, seconds=900, reason="storm", actor=OPERATOR, now=timezone.now())
        before = running.deadline_at
        running.refresh_from_db()
        assert (running.deadline_at - before, running.extensions) == (timedelta(seconds=900), 0)
        event = Event.objects.get(kind="round.extended")
        assert (event.actor, event.payload["reason"]) == (OPERATOR, "storm")

    @pytest.mark.parametrize(("seconds", "reason", "code"), [
        (0, "storm", "malformed-message"), (31 * 86400, "storm", "malformed-message"), (60, " ", "conflict"),
    ])  # fmt: skip
    def test_an_extension_out_of_bounds_or_without_a_reason_is_refused(self, running, seconds, reason, code):
        with nothing_changed(), pytest.raises(Refusal, match=code):
            extend_round(running.id, seconds=seconds, reason=reason, actor=OPERATOR, now=timezone.now())

    def test_a_round_past_its_deadline_is_not_extended(self, running):
        now = past_its_deadline(running)
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            extend_round(running.id, seconds=60, reason="storm", actor=OPERATOR, now=now)

    def test_the_running_round_of_a_paused_federation_goes_on(self, running, alice):
        pause_federation(running.federation_id, actor=OPERATOR)
        line = alice.line()
        assert line.ask().message["round"]["round_id"] == running.id.bytes
        assert Submission(running, alice).hand_in(line).status == 200


@pytest.mark.django_db
def test_a_device_in_two_rounds_works_on_one_after_the_other(running, alice):
    second = started(make_federation("second"))
    Round.objects.filter(id=second.id).update(opened_at=F("opened_at") + timedelta(seconds=1))
    line = alice.line()
    assert line.ask().message["round"]["round_id"] == running.id.bytes
    Submission(running, alice).hand_in(line)
    assert line.ask().message["round"]["round_id"] == second.id.bytes
    tell(line, second, state="failed")
    assert line.ask().message["round"] is None


@pytest.mark.django_db
def test_a_round_that_begins_anew_asks_the_device_that_failed_again(running, alice):
    line = alice.line()
    tell(line, running, state="failed", reason="out of memory")
    holder = uuid.uuid4()
    Round.objects.update(state=RoundState.AGGREGATING, lease_holder=holder)
    with transaction.atomic():
        assert restart_round(running.id, holder, reason="its keys were lost", now=timezone.now())
    assert prepare_round(running.id, now=timezone.now())
    part, round_ = Participation.objects.get(device=alice.device), Round.objects.get()
    assert (part.state, part.reason, part.progress, round_.failures) == ("invited", "", None, 0)
    assert line.ask().message["round"]["round_id"] == running.id.bytes


@pytest.mark.django_db(transaction=True)
class TestRaces:
    def test_of_many_workers_at_the_deadline_one_puts_it_off(self, patient, alice):
        tell(alice.line(), patient)
        now = past_its_deadline(patient)
        assert sorted(together(*[lambda: close_round(patient.id, now=now)] * 4)) == [False, False, False, True]
        patient.refresh_from_db()
        assert (patient.state, patient.extensions) == (RoundState.OPEN, 1)
        assert Event.objects.filter(kind="round.extended").count() == 1

    def test_an_update_and_a_failure_at_once_leave_one_of_them(self, running, alice):
        lines, body = (alice.line(), alice.line()), Submission(running, alice).body()
        together(
            lambda: send_submission(lines[0], body),
            lambda: tell(lines[1], running, state="failed", reason="out of memory"),
        )
        running.refresh_from_db()
        part = Participation.objects.get(device=alice.device)
        assert running.submissions + running.failures == 1
        assert part.state == ("submitted" if running.submissions else "failed")

    def test_failures_of_many_devices_at_once_are_all_counted(self, running, alice, carol, dave):
        lines = [person.line() for person in (alice, carol, dave)]
        together(*[lambda line=line: tell(line, running, state="failed") for line in lines])
        assert Round.objects.get().failures == 3

    def test_an_extension_and_a_closing_at_once_leave_one_of_them(self, running):
        Round.objects.update(submissions=3)
        outcomes = together(
            lambda: close_round(running.id, now=timezone.now()),
            lambda: extend_round(running.id, seconds=60, reason="storm", actor=OPERATOR, now=timezone.now()).number,
        )
        running.refresh_from_db()
        assert running.state == RoundState.AGGREGATING
        assert outcomes[0] is True
        assert outcomes[1] in (1, "conflict")
