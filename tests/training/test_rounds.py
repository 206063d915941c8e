"""The life of a round: each transition has one winner, and what may not happen is refused."""

import uuid
from datetime import timedelta
from threading import Thread

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone

from audit.models import Event
from enclave import services as enclave
from enclave.models import EnclaveInstance
from qflare_protocol.errors import Refusal
from sessions.services import revoke_device
from tests.open_rounds import Submission, make_federation, send_submission, started
from tests.people import OPERATOR, enrol, nothing_changed
from tests.training.whole_rounds import together
from training.models import ModelVersion, Participation, Round, RoundState
from training.services.federations import pause_federation, resume_federation
from training.services.rounds import (
    cancel_round,
    close_round,
    end_round,
    extend_lease,
    open_round,
    release_lease,
    roster_entries,
    take_lease,
)
from training.services.steps import prepare_round
from training.services.tick import Dispatch, tick
from training.tasks import open_scheduled_round

LEASE = timedelta(seconds=60)


def open_now(federation, **options):
    return open_round(federation.id, actor=OPERATOR, now=timezone.now(), **options)


def expire(round_):
    Round.objects.filter(id=round_.id).update(deadline_at=timezone.now())


@pytest.mark.django_db
class TestOpening:
    def test_a_round_invites_every_active_member(self, federation, alice, bob, carol, dave):
        created = open_now(federation)
        assert created.state == RoundState.PENDING
        invited = set(Participation.objects.values_list("device__name", flat=True))
        assert invited == {"alice", "carol", "dave"}
        roster = {entry.device_id: entry.verifier for entry in roster_entries(created)}
        assert roster[alice.device.id.bytes] == alice.identity.keys.signer.verifier
        assert Event.objects.get(kind="round.created").payload["invited"] == 3

    def test_too_few_devices_are_refused(self, federation, alice, bob, carol):
        with nothing_changed(), pytest.raises(Refusal, match="too-few-updates"):
            open_now(federation)

    def test_a_second_unfinished_round_is_refused(self, federation, alice, carol, dave):
        open_now(federation)
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            open_now(federation)

    def test_the_database_itself_refuses_a_second_unfinished_round(self, federation, alice, carol, dave):
        first = open_now(federation)
        with pytest.raises(IntegrityError), transaction.atomic():
            Round.objects.create(
                federation=federation,
                number=9,
                base_version=first.base_version,
                policy=first.policy,
                roster=b"",
                invited=3,
                minimum_updates=3,
                target_updates=3,
                created_at=timezone.now(),
            )

    def test_an_unknown_federation_is_refused(self, federation):
        with nothing_changed(), pytest.raises(Refusal, match="not-found"):
            open_round(uuid.uuid4(), actor=OPERATOR, now=timezone.now())

    def test_a_paused_federation_opens_no_round_until_it_is_resumed(self, federation, alice, carol, dave):
        pause_federation(federation.id, actor=OPERATOR)
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            open_now(federation)
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            pause_federation(federation.id, actor=OPERATOR)
        resume_federation(federation.id, actor=OPERATOR)
        assert open_now(federation).number == 1

    def test_the_planned_rounds_are_not_exceeded(self, alice, carol, dave):
        federation = make_federation(planned_rounds=1)
        complete(open_now(federation))
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            open_now(federation)

    def test_a_failed_round_does_not_count_as_a_planned_one(self, alice, carol, dave):
        federation = make_federation(planned_rounds=1)
        cancel_round(open_now(federation).id, reason="wrong data", actor=OPERATOR, now=timezone.now())
        assert open_now(federation).number == 2

    def test_the_schedule_leaves_a_running_round_alone(self, federation, alice, carol, dave):
        open_now(federation)
        with nothing_changed():
            open_scheduled_round(str(federation.id))


def complete(round_):
    """Complete a round as far as the database demands it."""
    version = ModelVersion.objects.create(
        federation=round_.federation,
        number=1,
        digest=b"d" * 32,
        size_bytes=1,
        blob_digest="0" * 64,
        blob_bytes=1,
        wrapped_content_key=b"w",
        created_at=timezone.now(),
    )
    Round.objects.filter(id=round_.id).update(
        state=RoundState.COMPLETED, resulting_version=version, finished_at=timezone.now()
    )


@pytest.mark.django_db
class TestEnding:
    def test_a_round_closes_once(self, running):
        Round.objects.update(submissions=3)
        now = timezone.now()
        assert [close_round(running.id, now=now), close_round(running.id, now=now)] == [True, False]
        running.refresh_from_db()
        assert (running.state, running.closed_at) == (RoundState.AGGREGATING, now)
        assert Event.objects.filter(kind="round.closed").count() == 1

    def test_a_round_with_time_and_room_left_does_not_close(self, running):
        Round.objects.update(submissions=2)
        with nothing_changed():
            assert not close_round(running.id, now=timezone.now())

    def test_a_round_below_its_minimum_fails_and_says_why(self, running, alice):
        Submission(running, alice).hand_in(alice.line())
        expire(running)
        assert close_round(running.id, now=timezone.now())
        running.refresh_from_db()
        assert running.state == RoundState.FAILED
        assert running.end_reason == "1 updates came before the deadline; the policy needs 3."
        assert Event.objects.get(kind="round.failed").payload["reason"] == running.end_reason
        assert EnclaveInstance.objects.get().wrapped_keys is None

    def test_a_round_at_its_minimum_goes_on_at_the_deadline(self, running):
        Round.objects.update(submissions=3, target_updates=5, invited=5)
        expire(running)
        assert close_round(running.id, now=timezone.now())
        running.refresh_from_db()
        assert running.state == RoundState.AGGREGATING

    @pytest.mark.parametrize("state", ["pending", "open", "aggregating"])
    def test_a_running_round_is_cancelled_in_any_state(self, running, state):
        Round.objects.update(state=state)
        cancel_round(running.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
        running.refresh_from_db()
        assert (running.state, running.end_reason) == (RoundState.CANCELLED, "wrong data")
        assert EnclaveInstance.objects.get().wrapped_keys is None
        event = Event.objects.get(kind="round.cancelled")
        assert (event.actor, event.payload["reason"]) == (OPERATOR, "wrong data")

    def test_a_round_that_is_over_is_not_cancelled(self, running):
        complete(running)
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            cancel_round(running.id, reason="too late", actor=OPERATOR, now=timezone.now())

    @pytest.mark.parametrize("reason", ["", " \n"])
    def test_a_cancellation_needs_a_reason(self, running, reason):
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            cancel_round(running.id, reason=reason, actor=OPERATOR, now=timezone.now())

    def test_ending_an_ended_round_does_nothing(self, running):
        cancel_round(running.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
        with nothing_changed(), transaction.atomic():
            assert not end_round(running.id, RoundState.FAILED, reason="x", actor="system", now=timezone.now())

    def test_a_cancelled_round_is_not_prepared(self, federation, alice, carol, dave, enclave_here):
        created = open_now(federation)
        cancel_round(created.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
        with nothing_changed():
            assert not prepare_round(created.id, now=timezone.now())

    def test_a_device_revoked_during_the_round_hands_nothing_in_but_the_round_goes_on(self, running, alice):
        revoke_device(alice.device.id, reason="stolen", actor=OPERATOR, now=timezone.now())
        running.refresh_from_db()
        assert running.state == RoundState.OPEN


@pytest.mark.django_db
class TestLeases:
    @pytest.fixture
    def pending(self, federation, alice, carol, dave):
        return open_now(federation)

    def take(self, pending, now, state=RoundState.PENDING):
        return take_lease(pending.id, state, lease_time=LEASE, now=now)

    def test_a_lease_is_taken_once(self, pending):
        now = timezone.now()
        assert self.take(pending, now) is not None
        assert self.take(pending, now + LEASE - timedelta(seconds=1)) is None

    def test_an_expired_lease_is_taken_over_and_the_first_holder_has_lost_it(self, pending):
        now = timezone.now()
        first, second = self.take(pending, now), self.take(pending, now + LEASE)
        assert second not in (None, first)
        assert not extend_lease(pending.id, first, lease_time=LEASE, now=now + LEASE)
        release_lease(pending.id, first)
        assert self.take(pending, now + LEASE) is None
        pending.refresh_from_db()
        assert (pending.attempts, pending.lease_holder) == (2, second)

    def test_an_extended_lease_is_kept(self, pending):
        now = timezone.now()
        holder = self.take(pending, now)
        assert extend_lease(pending.id, holder, lease_time=LEASE, now=now + LEASE / 2)
        assert self.take(pending, now + LEASE) is None

    def test_a_released_lease_is_free_at_once(self, pending):
        now = timezone.now()
        release_lease(pending.id, self.take(pending, now))
        assert self.take(pending, now) is not None

    def test_a_lease_on_another_step_is_not_given(self, pending):
        assert self.take(pending, timezone.now(), RoundState.AGGREGATING) is None

    def test_a_worker_that_lost_its_lease_changes_nothing(self, pending, enclave_here, monkeypatch):
        slow = enclave.start_enclave

        def overtaken(*arguments):
            prepared = slow(*arguments)
            Round.objects.update(lease_holder=uuid.uuid4())
            return prepared

        monkeypatch.setattr(enclave, "start_enclave", overtaken)
        assert not prepare_round(pending.id, now=timezone.now())
        pending.refresh_from_db()
        assert pending.state == RoundState.PENDING
        assert not EnclaveInstance.objects.exists()

    @pytest.mark.parametrize(("code", "state"), [("enclave-failed", "pending"), ("sealing-refused", "failed")])
    def test_a_passing_failure_is_tried_again_and_a_final_one_fails_the_round(self, pending, monkeypatch, code, state):
        def failing(*_):
            raise Refusal(code, "It broke.")

        monkeypatch.setattr(enclave, "start_enclave", failing)
        assert not prepare_round(pending.id, now=timezone.now())
        pending.refresh_from_db()
        assert (pending.state, pending.lease_holder) == (state, None)

    def test_five_passing_failures_fail_the_round(self, pending, monkeypatch):
        def failing(*_):
            raise Refusal("enclave-failed", "It broke.")

        monkeypatch.setattr(enclave, "start_enclave", failing)
        for _ in range(5):
            prepare_round(pending.id, now=timezone.now())
        pending.refresh_from_db()
        assert pending.state == RoundState.FAILED
        assert "It broke." in pending.end_reason


@pytest.mark.django_db
def test_the_tick_closes_what_is_due_and_dispatches_what_nobody_runs(running):
    Round.objects.update(submissions=3)
    prepared, aggregated, evaluated = [], [], []
    dispatch = Dispatch(prepared.append, aggregated.append, [].append, evaluated.append)
    tick(dispatch, now=timezone.now())
    assert (prepared, aggregated, evaluated) == ([], [running.id], [])
    assert take_lease(running.id, RoundState.AGGREGATING, lease_time=LEASE, now=timezone.now())
    tick(dispatch, now=timezone.now())
    assert aggregated == [running.id]
    tick(dispatch, now=timezone.now() + LEASE)
    assert aggregated == [running.id] * 2


@pytest.mark.django_db(transaction=True)
class TestRaces:
    def test_of_many_openings_at_once_one_wins(self, federation, alice, carol, dave):
        outcomes = together(*[lambda: open_now(federation).number] * 4)
        assert sorted(map(str, outcomes)) == ["1", "conflict", "conflict", "conflict"]
        assert Round.objects.unfinished().count() == 1

    def test_of_many_closings_at_once_one_wins(self, running):
        Round.objects.update(submissions=3)
        outcomes = together(*[lambda: close_round(running.id, now=timezone.now())] * 4)
        assert sorted(outcomes) == [False, False, False, True]
        assert Event.objects.filter(kind="round.closed").count() == 1

    def test_of_many_workers_at_once_one_takes_the_lease(self, federation, alice, carol, dave):
        pending, now = open_now(federation), timezone.now()
        takes = [lambda: take_lease(pending.id, RoundState.PENDING, lease_time=LEASE, now=now)] * 4
        assert sum(outcome is not None for outcome in together(*takes)) == 1

    def test_a_cancellation_and_a_closing_at_once_leave_one_state(self, running):
        Round.objects.update(submissions=3)
        now = timezone.now()
        together(
            lambda: close_round(running.id, now=now),
            lambda: cancel_round(running.id, reason="wrong data", actor=OPERATOR, now=now),
        )
        running.refresh_from_db()
        assert running.state == RoundState.CANCELLED

    def test_one_update_sent_twice_at_once_is_stored_once(self, running, alice):
        lines, submission = (alice.line(), alice.line()), Submission(running, alice)
        body = submission.body()
        receipts = together(*[lambda line=line: send_submission(line, body).message["receipt"] for line in lines])
        assert receipts[0] == receipts[1]
        running.refresh_from_db()
        assert running.submissions == 1

    def test_of_two_different_updates_at_once_one_wins(self, running, alice):
        lines = (alice.line(), alice.line())
        submissions = Submission(running, alice), Submission(running, alice, claims={"sample_count": 7})
        pairs = list(zip(lines, submissions, strict=True))
        answers = together(*[lambda line=line, update=update: update.hand_in(line).status for line, update in pairs])
        assert sorted(answers) == [200, 409]
        running.refresh_from_db()
        assert running.submissions == 1


@pytest.mark.django_db
def test_a_started_round_is_open_until_its_deadline(federation, alice, carol, dave, enclave_here):
    round_ = started(federation)
    assert round_.state == RoundState.OPEN
    assert round_.deadline_at - round_.opened_at == timedelta(hours=1)
    assert Event.objects.filter(kind__in=("round.opened", "enclave.prepared")).count() == 2


@pytest.mark.django_db(transaction=True)
def test_the_schedule_does_not_wait_for_a_submission_that_is_not_committed(tmp_path, enclave_here):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    federation = make_federation()
    for name in ("alice", "carol", "dave"):
        enrol(name, tmp_path / name)
    round_ = started(federation)
    refused = []

    def schedule():
        try:
            open_round(federation.id, actor="schedule", now=timezone.now())
        except Refusal as refusal:
            refused.append(refusal.code)
        finally:
            connection.close()

    with transaction.atomic():
        Round.objects.filter(id=round_.id).update(submissions=F("submissions") + 1)
        thread = Thread(target=schedule)
        thread.start()
        thread.join(timeout=10)
        assert refused == ["conflict"]
