"""The statement behind `POST /api/work` says what the rows say, as the object mapper reads them."""

from datetime import timedelta

import pytest
from django.utils import timezone

from devices.models import DeviceKey
from tests.people import Person
from training.models import WAITING, Federation, FederationState, Participation, ParticipationState, Round
from training.services.waiting_round import NothingWaits, WaitingRound, waiting_round

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
