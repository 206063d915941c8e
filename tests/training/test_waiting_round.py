"""The statement behind `POST /api/work` says what the rows say, as the object mapper reads them."""

import uuid
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from devices.models import Device, DeviceKey
from tests.people import Person
from training.models import (
    WAITING,
    Federation,
    FederationState,
    ModelVersion,
    Participation,
    ParticipationState,
    Round,
    RoundState,
)
from training.services.participation import work_for
from training.services.waiting_round import AWAITED, NothingWaits, WaitingRound, waiting_round

pytestmark = pytest.mark.django_db


def test_the_round_is_that_of_the_object_mapper(running: Round, alice: Person) -> None:
    older = [[3, "00" * 32, 1]]
    Round.objects.update(older_bases=older)
    Federation.objects.update(trainer_parameters={"rate": 0.5, "layers": [1, 2]})
    part = Participation.objects.select_related("round__federation", "round__base_version", "signature_key").get(
        device=alice.device
    )
    round_, federation = part.round, part.round.federation
    assert waiting_round(alice.device, now=timezone.now()) == WaitingRound(
        round_id=round_.id,
        round_number=round_.number,
        deadline_at=round_.deadline_at,
        older_bases=older,
        federation_id=federation.id,
        federation=federation.name,
        trainer=federation.trainer,
        trainer_parameters={"rate": 0.5, "layers": [1, 2]},
        base_version=round_.base_version.number,
        base_digest=bytes(round_.base_version.digest),
        signature_key=bytes(part.signature_key.fingerprint),
    )


def test_one_statement_asks_for_both(running: Round, alice: Person, django_assert_num_queries) -> None:
    device = alice.device
    with django_assert_num_queries(1):
        waiting_round(device, now=timezone.now())
    Participation.objects.update(state=ParticipationState.SUBMITTED)
    with django_assert_num_queries(1):
        waiting_round(device, now=timezone.now())


@pytest.mark.parametrize("state", [state for state in ParticipationState if state not in WAITING])
def test_a_device_that_is_done_waits_for_nothing(running: Round, alice: Person, state: ParticipationState) -> None:
    Participation.objects.update(state=state)
    assert isinstance(waiting_round(alice.device, now=timezone.now()), NothingWaits)


def test_a_round_past_its_deadline_or_a_key_that_is_over_waits_for_nobody(running: Round, alice: Person) -> None:
    device, now = alice.device, timezone.now()
    assert isinstance(waiting_round(device, now=running.deadline_at), NothingWaits)
    keys = DeviceKey.objects.filter(device=device)
    keys.update(valid_until=now)
    assert isinstance(waiting_round(device, now=now), NothingWaits)
    keys.update(valid_until=now + timedelta(seconds=1))
    assert isinstance(waiting_round(device, now=now), WaitingRound)


def test_the_shortest_round_of_the_federations_a_device_may_be_in(running: Round, alice: Person) -> None:
    device, now = alice.device, timezone.now()
    Participation.objects.update(state=ParticipationState.SUBMITTED)
    Federation.objects.update(round_seconds=600)
    assert waiting_round(device, now=now) == NothingWaits(600, between_buffers=False, evaluations_asked=False)
    Federation.objects.update(group="another group")
    assert waiting_round(device, now=now) == NothingWaits(None, between_buffers=False, evaluations_asked=False)
    Federation.objects.update(group="", state=FederationState.PAUSED)
    assert waiting_round(device, now=now) == NothingWaits(None, between_buffers=False, evaluations_asked=False)


def test_a_device_without_a_part_is_given_no_round(running: Round, bob: Person) -> None:
    assert isinstance(waiting_round(bob.device, now=timezone.now()), NothingWaits)


class TestARoundThatIsAboutToOpen:
    def test_one_that_is_prepared_is_awaited(self, running: Round, alice: Person) -> None:
        device, now = alice.device, timezone.now()
        Round.objects.update(state=RoundState.PENDING, created_at=now)
        assert awaited(device, now) == running.invited

    def test_one_that_takes_long_is_not_asked_for_more_often(self, running: Round, alice: Person) -> None:
        device, now = alice.device, timezone.now()
        Round.objects.update(state=RoundState.PENDING, created_at=now - AWAITED - timedelta(seconds=1))
        assert awaited(device, now) is None

    def test_where_a_round_opens_at_the_end_of_another_it_is_awaited(self, running: Round, alice: Person) -> None:
        device, now = alice.device, timezone.now()
        Round.objects.update(state=RoundState.AGGREGATING, created_at=now - timedelta(hours=1), closed_at=now)
        assert awaited(device, now) is None
        Federation.objects.update(idle_devices=3)
        assert awaited(device, now) == running.invited

    def test_after_a_new_version_the_devices_that_made_it_await_the_next_round(
        self, running: Round, alice: Person
    ) -> None:
        device, now = alice.device, timezone.now()
        complete(running, now)
        assert awaited(device, now) is None
        Federation.objects.update(idle_devices=1)
        assert awaited(device, now) == running.invited
        assert awaited(device, now + AWAITED + timedelta(seconds=1)) is None
        Federation.objects.update(group="another group")
        assert awaited(device, now) is None

    def test_once_the_next_round_is_open_nobody_awaits_it(self, running: Round, alice: Person) -> None:
        device, now = alice.device, timezone.now()
        complete(running, now)
        Federation.objects.update(idle_devices=1)
        following = Round.objects.get(id=running.id)
        following.id, following.number, following.state = uuid.uuid4(), 2, RoundState.OPEN
        following.resulting_version = following.finished_at = None
        following.opened_at, following.deadline_at = now, now + timedelta(hours=1)
        following.save(force_insert=True)
        assert awaited(device, now) is None

    @pytest.mark.parametrize("state", [RoundState.PENDING, RoundState.AGGREGATING, RoundState.COMPLETED])
    def test_a_device_that_was_not_invited_asks_as_ever(
        self, running: Round, alice: Person, bob: Person, state: RoundState
    ) -> None:
        now = timezone.now()
        Federation.objects.update(idle_devices=1)
        if state == RoundState.COMPLETED:
            complete(running, now)
        else:
            Round.objects.update(state=state, created_at=now, closed_at=now)
        Participation.objects.filter(device=bob.device).delete()
        assert awaited(alice.device, now) == running.invited
        assert awaited(bob.device, now) is None


def complete(round_: Round, now: datetime) -> None:
    """End a round with the federation's version as its result."""
    version = ModelVersion.objects.get()
    Round.objects.filter(id=round_.id).update(state=RoundState.COMPLETED, resulting_version=version, finished_at=now)
    Federation.objects.update(current_version=version)


def awaited(device: Device, now: datetime) -> int | None:
    found = waiting_round(device, now=now)
    assert isinstance(found, NothingWaits)
    return found.awaited_devices


@pytest.mark.parametrize(("devices", "milliseconds"), [(3, 200), (10, 200), (40, 800), (50, None), (100_000, None)])
def test_a_round_that_is_about_to_open_is_asked_for_in_milliseconds(
    running: Round, alice: Person, devices: int, milliseconds: int | None
) -> None:
    now = timezone.now()
    Round.objects.update(state=RoundState.PENDING, created_at=now, invited=devices)
    Federation.objects.update(round_seconds=60)
    assert work_for(alice.device, active_devices=3, now=now).get("ask_again_milliseconds") == milliseconds
