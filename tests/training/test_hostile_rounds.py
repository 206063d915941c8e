"""Hostile updates, and a sealed process that one has taken over: the round says why it failed, the next is served."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from django.utils import timezone

from audit.models import Event
from enclave import courier, services
from enclave.services import enclave_host
from qflare_protocol.tensors import encode_tensors
from qflare_protocol.update import UpdateContext, seal_update
from tests.open_rounds import Submission, make_federation, started
from tests.people import Person, enrol
from training.models import Federation, ParticipationState, Round, RoundState
from training.services import rounds, steps

pytestmark = pytest.mark.django_db

HONEST = encode_tensors({"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)})
BABBLE = "import os, sys; os.write(int(sys.argv[1]), b'\\0\\0\\0\\5hello'); os.read(int(sys.argv[1]), 1)"


@pytest.fixture
def fleet(db: None, tmp_path: Path) -> list[Person]:
    return [enrol(f"device-{number}", tmp_path / f"device-{number}") for number in range(4)]


@pytest.fixture
def federation(db: None) -> Federation:
    return make_federation()


@pytest.fixture(autouse=True)
def destroyed_round_keys() -> Iterator[None]:
    """Leave no key of a test's rounds on the enclave host."""
    yield
    for key in (enclave_host().directory / "rounds").iterdir():
        key.unlink()


def sealed(round_: Round, person: Person, plaintext: bytes) -> bytes:
    """Seal any bytes as the device would its update."""
    instance = services.live_instance(round_.id)
    context = UpdateContext(
        round_.federation_id.bytes,
        round_.id.bytes,
        person.identity.device_id,
        bytes(instance.key_id),
        bytes(round_.base_version.digest),
    )
    return b"".join(seal_update(bytes(instance.hpke_public_key), context, plaintext))


def collected(federation: Federation, fleet: list[Person], plaintexts: list[bytes]) -> Round:
    """Run a round up to its aggregation; device i submits plaintext i, sealed and signed as it should be."""
    round_ = started(federation)
    for person, plaintext in zip(fleet, plaintexts, strict=True):
        submission = Submission(round_, person, sealed(round_, person, plaintext))
        assert "receipt" in submission.hand_in(person.line()).message
    assert rounds.close_round(round_.id, now=timezone.now())
    return Round.objects.get(id=round_.id)


def aggregated(round_: Round) -> Round:
    """Try until no attempt is left."""
    for _ in range(steps.MAX_ATTEMPTS):
        steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    return round_


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
