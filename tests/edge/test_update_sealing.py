"""A device seals its update in the form that the enclave's policy names, block by block."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from edge_client.device_state import DeviceStateFile
from edge_client.range_sealing import RangeSealing
from edge_client.trainer import TrainingOutcome
from edge_client.update_coding import coded_blocks
from enclave.core.keys import generate_round_keys
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import unverified_manifest
from qflare_protocol.tensors import encode_tensors, layout_of, parse_header
from qflare_protocol.update import UpdateContext, open_update
from qflare_protocol.update_forms import FORMS
from qflare_protocol.update_shape import UpdateShape
from tests.edge.test_round_worker import worker_of
from tests.edge.trainers import SmallTrainer
from tests.enclave_core.form_rounds import Process
from tests.open_rounds import make_federation, started
from tests.people import Person
from training.models import Federation, Participation, Update

MODEL = {"a": np.zeros(3000, dtype=np.float32), "body": np.ones(2000, dtype=np.float32)}
PLAIN = Stage("none")


class DriftingTrainer(SmallTrainer):
    """Adds a little to every weight."""

    def train(self, model: Any, round_number: int) -> Any:
        return TrainingOutcome({name: value + np.float32(0.3) for name, value in model.items()}, 100)


@pytest.mark.parametrize("parameters", [(), ("a*",)], ids=["all", "some"])
@pytest.mark.parametrize("form", FORMS)
def test_a_device_hands_in_the_form_of_the_policy(
    form: str, parameters: tuple[str, ...], alice: Person, carol: Person, dave: Person, enclave_here: None
) -> None:
    policy = AggregationPolicy(form=Stage(form), parameters=parameters, server_optimiser=PLAIN)
    started(make_federation("shaped", policy=policy, initial_model=encode_tensors(MODEL)))
    assert worker_of(alice, DriftingTrainer).work_once()[0]
    manifest = unverified_manifest(bytes(Update.objects.get().manifest))
    assert manifest.form == form
    nowhere = {"federation_id": bytes(16), "round_id": bytes(16)}
    assert manifest.ciphertext_bytes == sum(UpdateShape.of(policy, layout_of(MODEL), **nowhere).sealed_bytes(1))
    rests = [path.name for path in DeviceStateFile(alice.home).outbox.home.glob("rounding-rest.*")]
    assert len(rests) == (form == "int8-blocks")


def test_an_update_beyond_the_policys_limit_is_not_even_written(
    alice: Person, carol: Person, dave: Person, enclave_here: None
) -> None:
    policy = AggregationPolicy(maximum_update_bytes=10_000)
    started(make_federation("narrow", policy=policy, initial_model=encode_tensors(MODEL)))
    assert worker_of(alice, DriftingTrainer).work_once()[0] is False
    assert Participation.objects.get(device=alice.device).reason.startswith("update-too-large: The sealed update has")
    assert not list(DeviceStateFile(alice.home).outbox.home.glob("outbox.*"))


def test_a_federation_of_parameters_that_its_model_has_not_is_refused(db: None) -> None:
    with pytest.raises(Refusal) as refused:
        make_federation(
            "adapters", policy=AggregationPolicy(parameters=("lora.*",)), initial_model=encode_tensors(MODEL)
        )
    assert refused.value.code == "policy-refused"
    assert not Federation.objects.exists()


def sealing_of(form: str, model: dict[str, Any]) -> tuple[UpdateShape, RangeSealing, Any]:
    policy, keys = AggregationPolicy(form=Stage(form)), generate_round_keys()
    shape = UpdateShape.of(policy, layout_of(model), federation_id=bytes(16), round_id=bytes(16))
    context = UpdateContext(bytes(16), bytes(16), bytes(16), keys.key_id, bytes(32))
    process: Any = Process(policy, keys.hpke_public, keys.key_id)
    return shape, RangeSealing([process], context, shape), (keys.hpke_private, context)


@pytest.mark.parametrize("form", FORMS)
def test_a_large_model_is_sealed_with_little_memory(form: str) -> None:
    model = {"w": np.ones(8_000_000, dtype=np.float32)}
    shape, sealing, _ = sealing_of(form, model)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in sealing.pieces(coded_blocks(shape, model, model)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == sum(shape.sealed_bytes(1))
    assert peak < 4 << 20


def test_what_is_sealed_is_one_container_in_the_order_of_the_base_model() -> None:
    base = {"z": np.zeros((2, 3), dtype=np.float32), "a": np.zeros(5, dtype=np.float32)}
    trained = {name: value + np.float32(index + 1) for index, (name, value) in enumerate(base.items())}
    shape, sealing, (private, context) = sealing_of("delta", base)
    sealed = sealing.pieces(coded_blocks(shape, base, trained))
    plaintext = b"".join(bytes(piece) for piece in open_update(private, context, sealed))
    header = parse_header(plaintext)
    assert header.layout == layout_of(base)
    values = np.frombuffer(plaintext, dtype="<f4", offset=header.data_offset)
    assert values.tolist() == [2.0] * 5 + [1.0] * 6
    assert sealing.parts == ()
