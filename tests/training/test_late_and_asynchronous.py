"""Updates that come late, rounds that take older bases, and rounds that are buffers."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import Event
from devices.models import Device
from qflare_protocol.errors import Refusal
from sessions.services import revoke_device
from tests.factories import make_completed_round, make_device
from tests.open_rounds import Submission, make_federation, send_submission, started
from tests.people import OPERATOR, assert_refused, nothing_changed
from training.models import Federation, ModelVersion, Participation, Round, RoundState
from training.services.federations import pause_federation
from training.services.late_updates import older_bases_of
from training.services.rounds import cancel_round, close_round
from training.services.tick import Dispatch, tick
from training.services.uploads import sweep_uploads
from training.terms import Terms

BUFFER = Terms(mode="asynchronous", target_updates=3)


def nothing(_):
    """Stands in for a worker."""


def run_tick(now):
    tick(Dispatch(nothing, nothing, nothing, nothing), now=now)


@pytest.fixture
def fourth_version(federation, alice, carol, dave, enclave_here):
    """A federation whose training has come to version 3."""
    for _ in range(3):
        federation.refresh_from_db()
        make_completed_round(federation, rejected="nobody", accuracy=0.5, now=timezone.now())
        latest = federation.versions.order_by("-number")[0]
        ModelVersion.objects.filter(id=latest.id).update(digest=bytes([latest.number]) * 32)
    federation.refresh_from_db()
    return federation


@pytest.fixture
def stale_by_two(federation):
    """Let the federation, and its rounds so far, take updates that are two versions behind."""
    policy = replace(federation.aggregation_policy(), maximum_staleness=2).to_map()
    Federation.objects.update(policy=policy)
    Round.objects.update(policy=policy)


@pytest.mark.django_db
class TestLateUpdates:
    def test_a_device_is_told_that_its_late_update_is_dropped(self, running, alice):
        Round.objects.update(deadline_at=timezone.now())
        with nothing_after(alice) as line:
            problem = assert_refused(Submission(running, alice).hand_in(line), "round-closed")
        assert problem["late_update"] == "dropped"

    def test_or_that_the_next_round_takes_it(self, running, alice, stale_by_two):
        line, body = alice.line(), Submission(running, alice).body()
        cancel_round(running.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
        problem = assert_refused(send_submission(line, body), "round-closed")
        assert problem["late_update"] == "kept-for-next-round"

    def test_a_model_that_did_not_change_is_named_once(self, fourth_version, stale_by_two):
        ModelVersion.objects.filter(number__in=(2, 3)).update(digest=bytes([3]) * 32)
        fourth_version.refresh_from_db()
        bases = older_bases_of(fourth_version, fourth_version.current_version)
        assert [[number, staleness] for number, _, staleness in bases] == [[1, 2]]


class nothing_after:
    """`nothing_changed` that begins once the person's session stands."""

    def __init__(self, person):
        self.line, self.inner = person.line(), nothing_changed()

    def __enter__(self):
        self.inner.__enter__()
        return self.line

    def __exit__(self, *exception):
        return self.inner.__exit__(*exception)


@pytest.mark.django_db
class TestOlderBases:
    def test_a_round_of_a_policy_without_staleness_takes_its_own_base_alone(self, fourth_version, alice):
        opened = started(fourth_version)
        assert opened.older_bases == []
        line = alice.line()
        assert "older_bases" not in line.ask().message["round"]
        with nothing_changed():
            stale = Submission(opened, alice, claims={"base_model_digest": bytes([2]) * 32})
            assert_refused(stale.hand_in(line), "base-model-mismatch")

    def test_a_round_names_the_versions_whose_updates_it_takes(self, fourth_version, alice, stale_by_two):
        started(fourth_version)
        assert alice.line().ask().message["round"]["older_bases"] == [[2, bytes([2]) * 32, 1], [1, bytes([1]) * 32, 2]]

    @pytest.mark.parametrize(("number", "taken"), [(3, True), (2, True), (1, True), (0, False), (9, False)])
    def test_an_update_from_one_of_them_is_taken(self, fourth_version, alice, stale_by_two, number, taken):
        opened = started(fourth_version)
        base = fourth_version.versions.filter(number=number).first()
        digest = bytes(base.digest) if base else bytes(32)
        answer = Submission(opened, alice, claims={"base_model_digest": digest}).hand_in(alice.line())
        assert (answer.status == 200) == taken
        if not taken:
            assert_refused(answer, "base-model-mismatch")

    def test_versions_that_training_went_back_behind_are_not_among_them(self, fourth_version, stale_by_two):
        base = fourth_version.versions.get(number=1)
        Federation.objects.filter(id=fourth_version.id).update(current_version=base)
        fourth_version.refresh_from_db()
        make_version_after(fourth_version, base, 4)
        fourth_version.refresh_from_db()
        bases = older_bases_of(fourth_version, fourth_version.current_version)
        assert [[number, staleness] for number, _, staleness in bases] == [[1, 1], [0, 2]]


def make_version_after(federation, base, number):
    """Complete a round from a base whose version does not have the next number."""
    latest = federation.rounds.order_by("-number")[0].number
    version = ModelVersion.objects.create(
        federation=federation, number=number, digest=b"d" * 32, size_bytes=1, blob_digest="0" * 64, blob_bytes=1,
        wrapped_content_key=b"w", created_at=timezone.now(),
    )  # fmt: skip
    Round.objects.create(
        federation=federation, number=latest + 1, base_version=base, policy=federation.policy, roster=b"", invited=3,
        minimum_updates=3, target_updates=3, created_at=timezone.now(), finished_at=timezone.now(),
        state=RoundState.COMPLETED, resulting_version=version,
    )  # fmt: skip
    Federation.objects.filter(id=federation.id).update(current_version=version)


@pytest.fixture
def buffer(alice, carol, dave, enclave_here):
    """An open buffer of three of an asynchronous federation."""
    return started(make_federation(terms=BUFFER))


@pytest.fixture
def large_buffer(alice, carol, dave, enclave_here):
    """An open buffer of five, to which six devices are invited that are switched off and never revoked."""
    for number in range(6):
        make_device(f"switched-off-{number}")
    opened = started(make_federation(terms=Terms(mode="asynchronous", target_updates=5)))
    Device.objects.filter(name__startswith="switched-off").update(last_seen_at=timezone.now() - timedelta(hours=1))
    return opened


def handed_in(buffer, number):
    """Let so many of the three that are here have handed in and ask again, and return the time."""
    here = buffer.participations.exclude(device__name__startswith="switched-off").values_list("id", flat=True)
    Participation.objects.filter(id__in=list(here[:number])).update(state="submitted")
    Round.objects.filter(id=buffer.id).update(submissions=number)
    return heard_at(timezone.now())


def heard_at(moment):
    """Let those that are here be heard at a time, and return it."""
    Device.objects.exclude(name__startswith="switched-off").update(last_seen_at=moment)
    return moment


@pytest.mark.django_db
class TestBuffers:
    def test_the_tick_opens_a_buffer_and_the_next_one_when_it_is_over(self, alice, carol, dave):
        federation, now = make_federation(terms=BUFFER), timezone.now()
        run_tick(now)
        run_tick(now)
        first = Round.objects.get()
        assert (first.invited, first.target_updates) == (3, 3)
        cancel_round(first.id, reason="wrong data", actor=OPERATOR, now=now)
        run_tick(now)
        assert federation.rounds.count() == 2

    def test_a_paused_federation_opens_no_buffer(self, alice, carol, dave):
        pause_federation(make_federation(terms=BUFFER).id, actor=OPERATOR)
        run_tick(timezone.now())
        assert not Round.objects.exists()

    def test_no_buffer_opens_for_too_few_devices(self, alice, carol):
        make_federation(terms=BUFFER)
        run_tick(timezone.now())
        assert not Round.objects.exists()

    def test_a_deadline_does_not_fail_a_buffer(self, buffer, alice):
        Device.objects.update(last_seen_at=timezone.now())
        for times in (1, 2, 3):
            now = timezone.now()
            Round.objects.update(deadline_at=now)
            assert close_round(buffer.id, now=now)
            buffer.refresh_from_db()
            assert (buffer.state, buffer.extensions) == (RoundState.OPEN, times)
            assert buffer.deadline_at == now + timedelta(hours=1)
        assert Event.objects.filter(kind="round.extended").count() == 3
        assert alice.line().ask().message["round"]["round_id"] == buffer.id.bytes

    def test_a_buffer_that_cannot_be_filled_any_more_ends_at_its_deadline(self, buffer, alice, carol):
        Submission(buffer, carol).hand_in(carol.line())
        revoke_device(alice.device.id, reason="lost", actor=OPERATOR, now=timezone.now())
        Round.objects.update(deadline_at=timezone.now())
        assert close_round(buffer.id, now=timezone.now())
        buffer.refresh_from_db()
        assert (buffer.state, buffer.extensions) == (RoundState.FAILED, 0)

    def test_a_buffer_does_not_wait_for_devices_that_are_silent_for_good(self, large_buffer):
        now = handed_in(large_buffer, 3)
        Round.objects.update(deadline_at=now)
        assert close_round(large_buffer.id, now=now)
        large_buffer.refresh_from_db()
        assert (large_buffer.state, large_buffer.extensions) == (RoundState.AGGREGATING, 0)

    def test_below_the_minimum_it_fails_and_the_next_one_invites_who_is_here_then(self, large_buffer, alice):
        make_device("enrolled-later")
        now = handed_in(large_buffer, 2)
        Round.objects.update(deadline_at=now)
        run_tick(now)
        large_buffer.refresh_from_db()
        assert large_buffer.state == RoundState.FAILED
        run_tick(now + timedelta(seconds=2))
        following = Round.objects.get(number=2)
        assert following.participations.filter(device__name="enrolled-later").exists()

    def test_a_device_that_trains_is_not_silent(self, large_buffer):
        now = handed_in(large_buffer, 3)
        Participation.objects.update(progress_lease_until=now + timedelta(seconds=1))
        Round.objects.update(deadline_at=now)
        assert close_round(large_buffer.id, now=now)
        large_buffer.refresh_from_db()
        assert (large_buffer.state, large_buffer.extensions) == (RoundState.OPEN, 1)

    def test_who_was_silent_while_the_site_was_away_is_waited_for_once_more(self, large_buffer):
        now = handed_in(large_buffer, 3)
        Round.objects.update(deadline_at=now - timedelta(minutes=3))
        assert close_round(large_buffer.id, now=now)
        large_buffer.refresh_from_db()
        assert (large_buffer.state, large_buffer.extensions) == (RoundState.OPEN, 1)
        assert close_round(large_buffer.id, now=heard_at(large_buffer.deadline_at))
        large_buffer.refresh_from_db()
        assert (large_buffer.state, large_buffer.extensions) == (RoundState.AGGREGATING, 1)

    def test_where_nobody_is_heard_the_web_may_be_away_and_silence_does_not_count(self, large_buffer):
        now = handed_in(large_buffer, 3)
        Round.objects.update(deadline_at=now)
        Device.objects.update(last_seen_at=now - timedelta(hours=1))
        assert close_round(large_buffer.id, now=now)
        large_buffer.refresh_from_db()
        assert (large_buffer.state, large_buffer.extensions) == (RoundState.OPEN, 1)

    def test_a_deadline_that_was_not_yet_put_off_costs_a_buffer_no_update(self, buffer, alice):
        line, submission = alice.line(), Submission(buffer, alice)
        report = {
            "round_id": buffer.id.bytes,
            "fraction": 0.5,
            "loss": None,
            "metrics": {},
            "reason": "",
            "state": "training",
        }
        Round.objects.update(deadline_at=timezone.now() - timedelta(minutes=1))
        assert line.ask("/api/progress", report).message["continue"]
        assert submission.hand_in(line).status == 200

    def test_nor_what_has_arrived_of_one(self, buffer, alice):
        line = alice.line()
        begun = line.ask("/api/uploads", {"manifest": Submission(buffer, alice).manifest()}).message
        Round.objects.update(deadline_at=timezone.now() - timedelta(minutes=1))
        sweep_uploads(older_than_seconds=0, now=timezone.now())
        assert (
            line.ask(f"/api/uploads/{begun['upload_id'].hex()}", method="GET", body=b"", content_type="").status == 200
        )

    def test_a_full_buffer_closes(self, buffer):
        Round.objects.update(submissions=3)
        assert close_round(buffer.id, now=timezone.now())
        buffer.refresh_from_db()
        assert buffer.state == RoundState.AGGREGATING

    def test_a_device_hands_in_once_to_a_buffer(self, buffer, alice):
        line = alice.line()
        assert Submission(buffer, alice).hand_in(line).status == 200
        with nothing_changed():
            assert_refused(Submission(buffer, alice, claims={"sample_count": 7}).hand_in(line), "already-submitted")

    def test_between_two_buffers_devices_ask_again_soon(self, buffer, alice):
        line = alice.line()
        Submission(buffer, alice).hand_in(line)
        ModelVersion.objects.update(created_at=timezone.now() - timedelta(minutes=1))
        assert line.ask().message["ask_again_seconds"] == 30
        Round.objects.update(state=RoundState.AGGREGATING)
        assert line.ask().message["ask_again_seconds"] == 2
        Round.objects.update(state=RoundState.FAILED, finished_at=timezone.now())
        assert line.ask().message["ask_again_seconds"] == 30
        ModelVersion.objects.update(created_at=timezone.now())
        assert line.ask().message["ask_again_seconds"] == 2

    @pytest.mark.parametrize(
        "terms", [{}, {"selection": "random", "target_updates": 3}, {"target_updates": 2}], ids=str
    )
    def test_a_buffer_is_open_to_all_and_has_a_size(self, terms):
        with nothing_changed(), pytest.raises(Refusal, match="policy-refused"):
            make_federation(terms=Terms(mode="asynchronous", **terms))

    def test_the_database_says_so_too(self, federation):
        with pytest.raises(IntegrityError), transaction.atomic():
            Federation.objects.filter(id=federation.id).update(mode="asynchronous")
