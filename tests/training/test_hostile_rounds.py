"""Hostile updates, and a sealed process that one has taken over: the round says why it failed, the next is served."""

import sys

import numpy as np
import pytest

from audit.models import Event
from enclave import courier
from tests.open_rounds import make_federation
from tests.people import Person
from tests.training.whole_rounds import HONEST, aggregated, collected
from training.models import Federation, ParticipationState, RoundState

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("destroyed_round_keys")]

BABBLE = "import os, sys; os.write(int(sys.argv[1]), b'\\0\\0\\0\\5hello'); os.read(int(sys.argv[1]), 1)"


@pytest.fixture
def federation(db: None) -> Federation:
    return make_federation()


def fuzzed(seed: int) -> bytes:
    """An honest container with one byte of its header changed."""
    generator = np.random.default_rng(seed)
    changed = bytearray(HONEST)
    changed[generator.integers(8, 8 + int.from_bytes(HONEST[:8], "little"))] ^= int(generator.integers(1, 128))
    return bytes(changed)


def assert_the_next_round_is_served(federation: Federation, fleet: list[Person]) -> None:
    federation.refresh_from_db()
    assert aggregated(collected(federation, fleet, [HONEST] * 4)).state == RoundState.COMPLETED


def test_fuzzed_updates_fail_their_round_which_says_why_and_the_next_one_is_served(
    federation: Federation, fleet: list[Person]
) -> None:
    round_ = aggregated(collected(federation, fleet, [b"", b"\xff" * 100, fuzzed(1), HONEST]))
    assert round_.state == RoundState.FAILED
    assert "the policy's minimum is 3" in round_.end_reason
    rejected = round_.participations.filter(state=ParticipationState.REJECTED)
    assert {part.device.name for part in rejected} == {"device-0", "device-1", "device-2"}
    assert {part.reason for part in rejected} == {"invalid-tensors"}
    assert_the_next_round_is_served(federation, fleet)


def test_one_fuzzed_update_costs_nobody_else_anything(federation: Federation, fleet: list[Person]) -> None:
    round_ = aggregated(collected(federation, fleet, [fuzzed(2), HONEST, HONEST, HONEST]))
    assert round_.state == RoundState.COMPLETED
    assert round_.participations.filter(state=ParticipationState.ACCEPTED).count() == 3


def test_a_process_that_was_taken_over_fails_its_round_which_says_why_and_the_next_one_is_served(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation, fleet, [HONEST] * 4)
    with monkeypatch.context() as taken_over:
        taken_over.setattr(courier, "_command", lambda *given: [sys.executable, "-S", "-c", BABBLE, str(given[-1])])
        aggregated(round_)
    assert round_.state == RoundState.FAILED
    assert "The sealed process failed" in round_.end_reason
    assert Event.objects.get(kind="round.failed").payload["reason"] == round_.end_reason
    assert_the_next_round_is_served(federation, fleet)
