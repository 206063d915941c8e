"""A federation's carried rows over whole rounds: kept when published, swept when replaced, forgotten when lost."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone

from audit.models import Event
from enclave.models import EnclaveInstance
from enclave.services import enclave_host
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.carried_rows import CarriedRow as Description
from qflare_protocol.carried_rows import carried_digest
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import RoundResult, verify_result
from qflare_protocol.tensors import decode_tensors, encode_tensors
from tests.open_rounds import make_federation
from tests.people import Person
from tests.policies import bare
from tests.training.whole_rounds import collected, fleet
from training.blobs import blob_path
from training.models import CarriedRow, Federation, Round, RoundState
from training.services import blob_sweep, steps
from training.services.carried_rows import Outputs

__all__ = ["fleet"]

HALVES = np.full((4, 3), 0.5, dtype=np.float32)


@pytest.fixture
def momentum(db: None) -> Iterator[Federation]:
    """A federation with momentum on the server and a history of each device."""
    policy = bare(server_optimiser=Stage("fedavgm", {"momentum": 0.5}), history=0.5)
    yield make_federation("carrying", policy=policy, planned_rounds=None)
    for folder in ("rounds", "federations"):
        for key in (enclave_host().directory / folder).iterdir():
            key.unlink()


def completed(federation: Federation, fleet: list[Person]) -> RoundResult:
    """Run a round in which every device hands in the same update, and return its signed result."""
    federation.refresh_from_db()
    round_ = collected(federation, fleet, [encode_tensors({"w": HALVES})] * len(fleet))
    assert steps.aggregate_round(round_.id, now=timezone.now())
    round_.refresh_from_db()
    signed_by = EnclaveInstance.objects.filter(round_id=round_.id, retired_at__isnull=False).first()
    assert signed_by is not None
    provenance = bytes(round_.resulting_version.provenance)
    return verify_result(provenance, Verifier("ML-DSA-44", bytes(signed_by.result_public_key)))


def model_of(federation: Federation) -> float:
    federation.refresh_from_db()
    return float(decode_tensors(steps.load_model(federation.current_version))["w"][0, 0])


def held(federation: Federation) -> bytes:
    rows = CarriedRow.objects.filter(federation=federation)
    return carried_digest([Description(r.name, bytes(r.enclave_key_id), bytes.fromhex(r.blob_digest)) for r in rows])


def test_momentum_and_histories_go_on_from_round_to_round(momentum: Federation, fleet: list[Person]) -> None:
    first, second = completed(momentum, fleet), completed(momentum, fleet)
    assert model_of(momentum) == pytest.approx(0.5 + 0.75)  # m = 0.5, then 0.5 · 0.5 + 0.5
    assert first.carried_in == carried_digest([])
    assert second.carried_in == first.carried_out
    assert second.carried_out == held(momentum)
    assert CarriedRow.objects.filter(name="momentum").count() == 1
    assert CarriedRow.objects.filter(name__startswith="history/").count() == len(fleet)


def test_a_replaced_row_is_swept_and_one_that_is_carried_is_not(momentum: Federation, fleet: list[Person]) -> None:
    completed(momentum, fleet)
    replaced = CarriedRow.objects.get(name="momentum").blob_digest
    completed(momentum, fleet)
    carried = CarriedRow.objects.get(name="momentum").blob_digest
    blob_sweep.sweep_blobs(now=timezone.now() + timedelta(hours=2))
    assert not blob_path(replaced).exists()
    assert blob_path(carried).exists()


def test_rows_that_open_no_more_are_forgotten_and_the_round_begins_anew(
    momentum: Federation, fleet: list[Person]
) -> None:
    completed(momentum, fleet)
    (enclave_host().directory / "federations" / f"{momentum.id.hex}.key").unlink()
    momentum.refresh_from_db()
    round_ = collected(momentum, fleet, [encode_tensors({"w": HALVES})] * len(fleet))
    assert not steps.aggregate_round(round_.id, now=timezone.now())
    round_ = Round.objects.get(id=round_.id)
    assert (round_.state, round_.restarts) == (RoundState.PENDING, 1)
    assert not CarriedRow.objects.exists()
    event = Event.objects.get(kind="federation.carried_rows_lost")
    assert event.payload["rows"] == len(fleet) + 1


@pytest.mark.parametrize("name, pieces", [("momentum", [bytes(100)] * 20), ("model", [bytes(1000)] * 3)])
def test_no_output_is_longer_than_a_round_can_make_it(name: str, pieces: list[bytes]) -> None:
    with Outputs(lambda piece: None, base_model_bytes=1000, devices=3) as outputs:
        with pytest.raises(Refusal) as caught:
            for piece in pieces:
                outputs.write(name, piece)
        assert caught.value.code == "enclave-failed"


def test_there_are_no_more_rows_than_devices_and_a_few() -> None:
    with Outputs(lambda piece: None, base_model_bytes=1000, devices=3) as outputs, pytest.raises(Refusal):
        for number in range(9):
            outputs.write(f"history/{number:032x}", b"x")
