"""The steps of a round with the real sealed process: aggregate, survive, begin anew, refuse."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import blake3
import numpy as np
import pytest
from django.utils import timezone

from audit.models import Event
from edge_client.device_state import DeviceStateFile
from edge_client.round_worker import RoundWorker
from edge_client.training import TrainingHere
from enclave.models import EnclaveInstance
from enclave.services import destroy_retired_keys, enclave_host
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import verify_result
from qflare_protocol.tensors import decode_tensors, encode_tensors
from tests.open_rounds import make_federation
from tests.people import OPERATOR, Person, enrol
from tests.system.running_site import KnownUpdateTrainer
from training.blobs import blob_path
from training.models import Federation, FederationState, ParticipationState, Round, RoundState, Update
from training.services import rounds, steps
from training.services.publication import LeaseLost

CHANGE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def fleet(db: None, tmp_path: Path) -> list[Person]:
    return [enrol(f"device-{number}", tmp_path / f"device-{number}") for number in range(4)]


@pytest.fixture
def federation(db: None) -> Federation:
    return make_federation(planned_rounds=1)


@pytest.fixture(autouse=True)
def destroyed_round_keys() -> Iterator[None]:
    """Leave no key of a test's rounds on the enclave host."""
    yield
    folder = enclave_host().directory / "rounds"
    for key in folder.iterdir():
        key.unlink()


def hand_in(person: Person, change: np.ndarray, samples: int = 10) -> None:
    memory = DeviceStateFile(person.home)
    worker = RoundWorker(
        person.http, person.keeper, memory, TrainingHere(lambda _: KnownUpdateTrainer({"w": change}, samples))
    )
    assert worker.work_once()[0]


def collected(federation: Federation, fleet: list[Person], changes: list[np.ndarray]) -> Round:
    """Run a round up to its aggregation."""
    now = timezone.now()
    round_ = rounds.open_round(federation.id, actor=OPERATOR, now=now)
    assert steps.prepare_round(round_.id, now=now)
    for person, change in zip(fleet, changes, strict=True):
        hand_in(person, change)
    assert rounds.close_round(round_.id, now=timezone.now())
    return Round.objects.get(id=round_.id)


def honest_changes() -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [(CHANGE + 0.1 * generator.standard_normal(CHANGE.shape)).astype(np.float32) for _ in range(4)]


def test_a_round_gives_the_mean_of_the_accepted_updates_signed_by_its_enclave(
    federation: Federation, fleet: list[Person]
) -> None:
    changes = honest_changes()
    changes[3] = -5 * changes[3]
    round_ = collected(federation, fleet, changes)
    assert steps.aggregate_round(round_.id, now=timezone.now())

    round_.refresh_from_db()
    version = round_.resulting_version
    assert round_.state == RoundState.COMPLETED
    model = decode_tensors(steps.load_model(version))["w"]
    np.testing.assert_allclose(model, np.mean(changes[:3], axis=0), rtol=1e-6)
    instance = EnclaveInstance.objects.get(round_id=round_.id)
    result = verify_result(bytes(version.provenance), Verifier("ML-DSA-44", bytes(instance.result_public_key)))
    assert result.model_digest == bytes(version.digest)
    poisoned = round_.participations.get(device__name="device-3")
    assert (poisoned.state, poisoned.reason) == (ParticipationState.REJECTED, "norm-above-bound")
    assert poisoned.scores["norm_ratio"] > 3
    assert Event.objects.filter(kind="update.rejected", payload__device="device-3").exists()
    federation.refresh_from_db()
    assert (federation.state, federation.current_version) == (FederationState.FINISHED, version)


def test_the_keys_of_a_finished_round_are_destroyed(federation: Federation, fleet: list[Person]) -> None:
    round_ = collected(federation, fleet, honest_changes())
    sealing_key = enclave_host().directory / "rounds" / f"{round_.id.hex}.key"
    assert sealing_key.exists()
    steps.aggregate_round(round_.id, now=timezone.now())
    instance = EnclaveInstance.objects.get(round_id=round_.id)
    assert instance.wrapped_keys is None
    assert instance.key_destroyed_at is not None
    assert not sealing_key.exists()


def test_the_key_of_a_cancelled_round_is_destroyed_by_the_sweep(federation: Federation, fleet: list[Person]) -> None:
    round_ = collected(federation, fleet, honest_changes())
    rounds.cancel_round(round_.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
    sealing_key = enclave_host().directory / "rounds" / f"{round_.id.hex}.key"
    assert sealing_key.exists()
    destroy_retired_keys(now=timezone.now())
    assert not sealing_key.exists()


def test_a_lost_enclave_key_begins_the_round_anew_and_asks_every_device_again(
    federation: Federation, fleet: list[Person]
) -> None:
    changes = honest_changes()
    round_ = collected(federation, fleet, changes)
    EnclaveInstance.objects.filter(round_id=round_.id).update(wrapped_keys=b"\x00" * 200)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert (round_.state, round_.restarts, round_.submissions) == (RoundState.PENDING, 1, 0)
    assert not Update.objects.exists()
    assert Event.objects.filter(kind="round.restarted").exists()

    assert steps.prepare_round(round_.id, now=timezone.now())
    for person, change in zip(fleet, changes, strict=True):
        hand_in(person, change)
    assert rounds.close_round(round_.id, now=timezone.now())
    assert steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert round_.state == RoundState.COMPLETED


def test_a_round_with_too_few_acceptable_updates_fails_and_says_whose_were_rejected(
    federation: Federation, fleet: list[Person]
) -> None:
    changes = honest_changes()
    changes[2], changes[3] = -CHANGE, np.roll(CHANGE, 5)
    round_ = collected(federation, fleet, changes)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert round_.state == RoundState.FAILED
    assert "minimum" in round_.end_reason
    rejected = round_.participations.filter(state=ParticipationState.REJECTED)
    assert {part.reason for part in rejected} == {"cosine-below-minimum"}
    assert round_.resulting_version is None


def test_a_damaged_update_is_rejected_and_the_others_make_the_model(
    federation: Federation, fleet: list[Person]
) -> None:
    round_ = collected(federation, fleet, honest_changes())
    damaged = Update.objects.get(participation__device__name="device-1")
    other = Update.objects.get(participation__device__name="device-2")
    Update.objects.filter(id=damaged.id).update(blob_digest=other.blob_digest)
    assert steps.aggregate_round(round_.id, now=timezone.now())
    part = round_.participations.get(device__name="device-1")
    assert (part.state, part.reason) == (ParticipationState.REJECTED, "decryption-failed")


def test_a_worker_that_lost_its_lease_publishes_nothing(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation, fleet, honest_changes())
    aggregate = steps.enclave.aggregate

    def overtaken(*args: object, **options: object) -> object:
        Round.objects.filter(id=round_.id).update(lease_holder=uuid.uuid4())
        return aggregate(*args, **options)

    monkeypatch.setattr(steps.enclave, "aggregate", overtaken)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert round_.state == RoundState.AGGREGATING
    assert federation.versions.count() == 1


def test_a_step_that_somebody_holds_is_not_started_again(federation: Federation, fleet: list[Person]) -> None:
    round_ = collected(federation, fleet, honest_changes())
    now = timezone.now()
    assert rounds.take_lease(round_.id, RoundState.AGGREGATING, lease_time=timedelta(seconds=30), now=now)
    assert not steps.aggregate_round(round_.id, now=now)
    assert steps.aggregate_round(round_.id, now=now + timedelta(seconds=31))


def test_an_enclave_that_keeps_failing_fails_the_round_after_its_attempts(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation, fleet, honest_changes())

    def dying(*args: object, **options: object) -> None:
        raise Refusal("enclave-failed", "The sealed process ended with signal 9 (SIGKILL).")

    monkeypatch.setattr(steps.enclave, "aggregate", dying)
    for attempt in range(1, steps.MAX_ATTEMPTS):
        assert not steps.aggregate_round(round_.id, now=timezone.now())
        round_.refresh_from_db()
        assert (round_.state, round_.attempts, round_.lease_holder) == (RoundState.AGGREGATING, attempt, None)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert round_.state == RoundState.FAILED
    assert "SIGKILL" in round_.end_reason


def test_a_model_other_than_the_signed_one_is_never_published(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation, fleet, honest_changes())
    aggregate = steps.enclave.aggregate

    def tampered(*args: object, **options: object) -> object:
        answer = aggregate(*args, **options)
        options["write_output"]("model", b"extra")
        return answer

    monkeypatch.setattr(steps.enclave, "aggregate", tampered)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    assert federation.versions.count() == 1


def test_a_stored_model_comes_back_as_it_was(federation: Federation) -> None:
    model = steps.load_model(federation.current_version)
    assert blake3.blake3(model).digest() == bytes(federation.current_version.digest)
    assert encode_tensors(decode_tensors(model)) == model


def test_a_damaged_base_model_fails_the_round_and_keeps_every_update(
    federation: Federation, fleet: list[Person]
) -> None:
    round_ = collected(federation, fleet, honest_changes())
    blob = blob_path(round_.base_version.blob_digest)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert (round_.state, round_.restarts) == (RoundState.FAILED, 0)
    assert "damaged" in round_.end_reason
    assert Update.objects.count() == 4


def test_a_step_that_never_ends_fails_the_round_in_the_end(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_, now = collected(federation, fleet, honest_changes()), timezone.now()

    def full(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(steps.enclave, "aggregate", full)
    for _ in range(steps.MAX_ATTEMPTS):
        with pytest.raises(OSError, match="no space"):
            steps.aggregate_round(round_.id, now=now)
        now += timedelta(hours=1)
    assert not steps.aggregate_round(round_.id, now=now)
    round_.refresh_from_db()
    assert round_.state == RoundState.FAILED
    assert "never ended" in round_.end_reason


def test_a_round_that_begins_anew_after_a_decision_completes(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation, fleet, honest_changes())

    def dies(*args: object) -> None:
        raise LeaseLost

    with monkeypatch.context() as before_publication:
        before_publication.setattr(steps, "publish_result", dies)
        assert not steps.aggregate_round(round_.id, now=timezone.now())
    EnclaveInstance.objects.filter(round_id=round_.id).update(wrapped_keys=b"\x00" * 200)
    assert not steps.aggregate_round(round_.id, now=timezone.now() + timedelta(hours=1))
    assert steps.prepare_round(round_.id, now=timezone.now())
    for person, change in zip(fleet, reversed(honest_changes()), strict=True):
        hand_in(person, change)
    assert rounds.close_round(round_.id, now=timezone.now())
    assert steps.aggregate_round(round_.id, now=timezone.now())


def test_a_host_that_does_not_hold_the_key_leaves_the_round_to_the_one_that_does(
    federation: Federation, fleet: list[Person]
) -> None:
    round_ = collected(federation, fleet, honest_changes())
    EnclaveInstance.objects.filter(round_id=round_.id).update(attestation_key=bytes(1312))
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    assert (round_.attempts, round_.lease_holder) == (0, None)
