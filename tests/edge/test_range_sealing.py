"""A device seals each range of its update to that range's process, and to nothing that it has not appraised."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

import training.api
from edge_client.trainer import TrainingOutcome
from enclave.models import EnclaveInstance
from qflare_protocol import ranges
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import unverified_manifest
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import encode_tensors
from qflare_protocol.update import sealed_update_size
from tests.edge.test_round_worker import worker_of
from tests.edge.trainers import SmallTrainer
from tests.open_rounds import make_federation, prepare_here, started
from tests.people import Person
from training.models import Round, Update

SIZE = 2 * BLOCK_COLUMNS + 3


class WideTrainer(SmallTrainer):
    """Adds one to every weight."""

    def train(self, model: Any, round_number: int) -> Any:
        return TrainingOutcome({name: value + np.float32(1) for name, value in model.items()}, 100)


@pytest.fixture
def shared(alice: Person, carol: Person, dave: Person, enclave_here: None, monkeypatch: pytest.MonkeyPatch) -> Round:
    """An open round whose model three processes share."""
    monkeypatch.setattr(ranges, "SMALLEST_SEGMENT_BLOCKS", 1)
    model = {"b": np.zeros(5, dtype=np.float32), "a": np.zeros(SIZE - 5, dtype=np.float32)}
    policy = AggregationPolicy(ranges=3, maximum_update_bytes=1 << 20)
    return started(make_federation("shared", policy=policy, initial_model=encode_tensors(model)))


def test_each_range_is_sealed_to_its_process(shared: Round, alice: Person) -> None:
    assert worker_of(alice, WideTrainer).work_once()[0]
    manifest = unverified_manifest(bytes(Update.objects.get().manifest))
    keys = EnclaveInstance.objects.filter(round_id=shared.id).order_by("range_index")
    assert manifest.key_ids == tuple(bytes(one.key_id) for one in keys)
    widths = (BLOCK_COLUMNS, BLOCK_COLUMNS, 3)
    assert [part.ciphertext_bytes for part in manifest.parts] == [sealed_update_size(4 * width) for width in widths]


def other_host(evidence: list[bytes], round_: Round) -> list[bytes]:
    """Return the evidence with that of range 1 by another host."""
    policy = round_.aggregation_policy()
    strange = prepare_here(round_.id, round_.federation_id, policy, 2, 3)
    return [evidence[0], strange.evidence, evidence[2]]


@pytest.mark.parametrize(
    "change",
    [
        lambda evidence, _: [evidence[1], evidence[0], evidence[2]],
        lambda evidence, _: [evidence[0], evidence[0], evidence[2]],
        lambda evidence, _: evidence[:2],
        lambda evidence, _: evidence[:1],
        lambda evidence, _: [*evidence, evidence[2]],
        other_host,
    ],
    ids=["swapped", "doubled", "two of three", "one of three", "four", "another range's"],
)
def test_nothing_is_sealed_where_the_evidence_is_not_that_of_every_range(
    shared: Round,
    alice: Person,
    change: Callable[[list[bytes], Round], list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = training.api.work_for

    def changed(*arguments: Any, **options: Any) -> dict[str, Any]:
        work = answer(*arguments, **options)
        round_ = dict(work["round"])
        first, *further = change([round_.pop("evidence"), *round_.pop("range_evidence")], shared)
        return work | {"round": round_ | {"evidence": first} | ({"range_evidence": further} if further else {})}

    monkeypatch.setattr(training.api, "work_for", changed)
    with pytest.raises(Refusal) as refused:
        worker_of(alice, WideTrainer).work_once()
    assert refused.value.code == "evidence-refused"
    assert not Update.objects.exists()


def test_an_update_for_fewer_processes_is_not_taken(shared: Round, alice: Person) -> None:
    worker = worker_of(alice, WideTrainer)
    EnclaveInstance.objects.filter(round_id=shared.id, range_index=2).update(
        retired_at=timezone.now(), wrapped_keys=None
    )
    with pytest.raises(Refusal):
        worker.work_once()
    assert not Update.objects.exists()
