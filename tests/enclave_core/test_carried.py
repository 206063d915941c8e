"""What a federation carries from round to round, sealed; and sealed rounds give what the rules give in memory."""

from dataclasses import replace

import numpy as np
import pytest

from enclave.core.carried import CarriedSeal
from enclave.core.rules.in_memory import Aggregator
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.carried_rows import CarriedRow, carried_digest
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import model_digest
from tests.enclave_core.rounds import FEDERATION, FEDERATION_KEY, Round, deltas, device_id, new_signer, reasons
from tests.policies import bare

COLUMNS = 40_000  # three ranges
POLICIES = {
    "default": AggregationPolicy(),
    "history": bare(rule=Stage("trimmed-mean"), tolerated_fraction=0.2, history=0.7),
    "centre": bare(rule=Stage("centered-clipping"), tolerated_fraction=0.2, history=0.5),
    "fedadam": bare(rule=Stage("median"), tolerated_fraction=0.2, server_optimiser=Stage("fedadam")),
    "fedyogi": bare(pre_aggregation=(Stage("bucketing"),), server_optimiser=Stage("fedyogi")),
    "private": bare(
        pre_aggregation=(Stage("quantile-clipping", {"initial_radius": 150.0}),),
        noise=Stage("gaussian", {"noise_multiplier": 0.01, "expected_cohort": 6}),
    ),
    "root": bare(filters=(Stage("root-cosine"),), root_device=device_id(6).hex()),
}


def a_round(policy, number, signers=None, before=None):
    """Return a round of six devices, with the rows that the round before left."""
    entry = Round(base={"w": np.zeros((COLUMNS,), dtype=np.float32)}, policy=policy)
    for index in range(1, 7):
        entry.signers[device_id(index)] = (signers or {}).get(device_id(index)) or new_signer()
    entry.submit_all(given(number))
    if before is not None:
        entry.carried = carried_after(before)
    return entry


def given(number):
    return [delta.reshape(COLUMNS) for delta in deltas(6, 1, shape=(200, 200), seed=number)]


def carried_after(entry):
    """Return the rows and their blobs that a finished round leaves."""
    made = {name: blob for name, blob in entry.last_courier.outputs.items() if name != "model"}
    kept = [(row, blob) for row, blob in entry.carried if row.name not in made]
    return kept + [(CarriedRow(name, entry.key_id, model_digest(blob)), blob) for name, blob in made.items()]


def run(entry):
    entry.last_courier = entry.courier()
    return entry.aggregate(entry.last_courier)


@pytest.mark.parametrize("name", POLICIES)
def test_sealed_rounds_give_what_the_rules_give_in_memory(name):
    policy, before, aggregator = POLICIES[name], None, Aggregator(POLICIES[name])
    for number in (1, 2, 3):
        entry = a_round(policy, number, before.signers if before else None, before)
        judged, model = run(entry)
        seed = entry.keys.seed(entry.record.inputs[-1])
        expected, _ = aggregator.aggregate(np.stack(given(number)), [100] * 6, seed=seed)
        np.testing.assert_allclose(model["w"], expected, rtol=1e-5, atol=1e-6)
        assert judged.result.carried_in == carried_digest([row for row, _ in entry.carried])
        assert judged.result.carried_out == carried_digest([row for row, _ in carried_after(entry)])
        before = entry


def test_a_round_repeated_gives_the_same_bits_of_model_and_carried_rows():
    entry = a_round(POLICIES["private"], 1)
    run(entry)
    first = entry.last_courier.outputs
    run(entry)
    assert entry.last_courier.outputs == first
    assert set(first) == {"model", "radius"}


def test_a_private_round_tells_no_scores():
    judged, _ = run(a_round(POLICIES["private"], 1))
    assert {verdict.scores for verdict in judged.verdicts} == {None}


def test_a_device_that_was_left_out_keeps_the_history_it_had():
    policy = bare(filters=(Stage("norm-bound"),), history=0.5)
    first = a_round(policy, 1)
    first.submitted, first.blobs = first.submitted[1:], first.blobs[1:]
    run(first)
    second = a_round(policy, 2, first.signers, first)
    judged, _ = run(second)
    assert reasons(judged) == {1: "norm-above-bound"}
    names = {row.name for row, _ in carried_after(second)}
    assert names == {f"history/{device_id(number).hex()}" for number in range(2, 7)}


def seal_with(**changes):
    members = {
        "federation_key": FEDERATION_KEY,
        "measurement": bytes(64),
        "policy_digest": POLICIES["fedadam"].digest(),
        "federation_id": FEDERATION,
    }
    return CarriedSeal(**(members | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"federation_key": b"g" * 32},
        {"measurement": b"m" * 64},
        {"policy_digest": bytes(64)},
        {"federation_id": b"x" * 16},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rows_of_another_host_code_policy_or_federation_do_not_open(changes):
    first = a_round(POLICIES["fedadam"], 1)
    run(first)
    blobs = []
    writer = seal_with(**changes).writer("momentum", first.key_id, blobs.append)
    writer.write(np.zeros(COLUMNS, dtype=np.float32))
    foreign = (writer.finish(), b"".join(blobs))
    second = a_round(POLICIES["fedadam"], 2, first.signers, first)
    second.carried = [foreign if row.name == "momentum" else (row, blob) for row, blob in second.carried]
    assert refused(second).code == "carried-rows-lost"


@pytest.mark.parametrize("damage", ["flipped", "short", "exchanged", "one lost"])
def test_damaged_rows_do_not_open(damage):
    first = a_round(POLICIES["fedadam"], 1)
    run(first)
    second = a_round(POLICIES["fedadam"], 2, first.signers, first)
    rows = {row.name: (row, blob) for row, blob in second.carried}
    (row, blob), (other, other_blob) = rows["momentum"], rows["second-moment"]
    second.carried = {
        "flipped": [(row, blob[:-1] + bytes([blob[-1] ^ 1])), (other, other_blob)],
        "short": [(row, blob[:100]), (other, other_blob)],
        "exchanged": [(replace(row, name=other.name), blob), (replace(other, name=row.name), other_blob)],
        "one lost": [(other, other_blob)],
    }[damage]
    assert refused(second).code == "carried-rows-lost"
    assert second.last_courier.outputs == {}


def refused(entry):
    entry.last_courier = entry.courier()
    with pytest.raises(Refusal) as caught:
        entry.aggregate(entry.last_courier)
    return caught.value


def test_without_the_root_devices_update_there_is_no_round():
    entry = a_round(POLICIES["root"], 1)
    entry.submitted, entry.blobs = entry.submitted[:-1], entry.blobs[:-1]
    refusal = refused(entry)
    assert refusal.code == "too-few-updates"
    assert "root device" in refusal.detail


def test_the_root_devices_update_is_accepted_and_weighs_nothing():
    judged, model = run(a_round(POLICIES["root"], 1))
    assert device_id(6) in {verdict.device_id for verdict in judged.accepted}
    assert judged.result.sample_total == 400
    np.testing.assert_allclose(model["w"], np.mean(given(1)[1:5], axis=0), rtol=1e-4, atol=1e-5)
