"""A model shared among ranges: the same bits as of one process, and nothing said between them that can be altered."""

import os
from dataclasses import replace

import numpy as np
import pytest

from enclave.core.carried import CarriedSeal
from enclave.core.host import DecisionRecord
from enclave.core.keys import RoundKeys
from enclave.core.streams import new_scratch
from qflare_protocol import ranges
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS, range_bounds, segment_columns
from qflare_protocol.tensors import model_digest
from tests.enclave_core.rounds import FEDERATION, FEDERATION_KEY, MemoryBlob, Round, reasons
from tests.enclave_core.shared_rounds import SharedRound
from tests.policies import screened

SIZE = 4 * BLOCK_COLUMNS + 77
BASE = np.linspace(-1, 1, SIZE, dtype=np.float32)
CLIPPED = {"filters": (), "pre_aggregation": (Stage("quantile-clipping"),), "rule": Stage("mean")}
POLICIES = {
    "the default": AggregationPolicy(),
    "weighted mean": screened(),
    "multi-krum after nnm": screened(tolerated_fraction=0.2, pre_aggregation=(Stage("nnm"),), rule=Stage("multi-krum")),
    "geometric median after bucketing": screened(
        tolerated_fraction=0.15,
        pre_aggregation=(Stage("bucketing"),),
        rule=Stage("geometric-median"),
        minimum_updates=6,
    ),
    "median": screened(tolerated_fraction=0.2, rule=Stage("median")),
    "trimmed mean with history": screened(tolerated_fraction=0.2, rule=Stage("trimmed-mean"), history=0.6),
    "bulyan": screened(tolerated_fraction=0.15, filters=(), rule=Stage("bulyan"), minimum_updates=7),
    "centered clipping with history": screened(tolerated_fraction=0.2, rule=Stage("centered-clipping"), history=0.9),
    "fedadam": screened(server_optimiser=Stage("fedadam")),
    "noise": screened(**CLIPPED, noise=Stage("gaussian", {"noise_multiplier": 1.0, "expected_cohort": 7})),
}


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    """Let models of five blocks have five segments, and every round the same secret seed."""
    monkeypatch.setattr(ranges, "SMALLEST_SEGMENT_BLOCKS", 1)
    monkeypatch.setattr(RoundKeys, "seed", lambda keys, inputs: b"s" * 32)


def deltas(*, poisoned=1, spread=1.0, seed=1, count=7):
    generator = np.random.default_rng(seed)
    common = generator.normal(size=SIZE)
    made = [(common + spread * generator.normal(size=SIZE)).astype(np.float32) for _ in range(count)]
    return [-5 * delta if index < poisoned else delta for index, delta in enumerate(made)]


def two_rounds_of_one(policy, **options):
    """Return what one process makes of two rounds: both results, the last model, the carried rows."""
    results, carried, base = [], [], BASE
    for seed in (1, 2):
        entry = Round(base={"w": base}, policy=policy)
        entry.carried = carried
        for number, delta in enumerate(deltas(seed=seed, **options)):
            entry.submit(delta, sample_count=100 + number)
        courier = entry.courier()
        judged, model = entry.aggregate(courier)
        results.append(judged)
        carried, base = _carried_by(entry, courier, carried), model["w"]
    return results, courier.model, _opened(entry, carried)


def _carried_by(entry, courier, before):
    rows = {row.name: (row, blob) for row, blob in before}
    for name, blob in courier.outputs.items():
        if name != "model":
            rows[name] = (CarriedRow(name, entry.key_id, model_digest(blob)), blob)
    return [rows[name] for name in sorted(rows)]


def _opened(entry, carried):
    seal, opened = CarriedSeal(FEDERATION_KEY, bytes(64), entry.policy.digest(), FEDERATION), {}
    for row, blob in carried:
        values = np.empty(1 if row.name == "radius" else SIZE, dtype=np.float32)
        seal.open(row, MemoryBlob(blob), len(values), new_scratch()).read_into(values)
        opened[row.name] = values.tobytes()
    return opened


def two_rounds_of_many(policy, count, **options):
    results, carried, base = [], {}, BASE
    for seed in (1, 2):
        entry = SharedRound(base, replace(policy, ranges=count), carried)
        for delta in deltas(seed=seed, **options):
            entry.submit(delta)
        judged, model, again = entry.aggregate()
        results.append(judged)
        carried, base = entry.carried_on(), np.frombuffer(model[-4 * SIZE :], dtype="<f4")
    return results, model, entry.opened_rows(), again


def judged(results):
    return [[(one.device_id, one.reason, one.scores) for one in judged.verdicts] for judged in results]


@pytest.mark.parametrize("name", POLICIES)
def test_two_three_and_five_ranges_give_the_same_bits_as_one_process(name):
    results, model, carried = two_rounds_of_one(POLICIES[name])
    for count in (2, 3, 5):
        shared, same, same_carried, _ = two_rounds_of_many(POLICIES[name], count)
        assert same == model
        assert judged(shared) == judged(results)
        assert same_carried == carried
        assert shared[1].result.carried_in == shared[0].result.carried_out


def test_updates_that_lie_close_together_are_read_again_and_give_the_same_bits():
    policy = replace(POLICIES["multi-krum after nnm"], filters=())
    results, model, _ = two_rounds_of_one(policy, spread=1e-3, poisoned=0)
    shared, same, _, again = two_rounds_of_many(policy, 3, spread=1e-3, poisoned=0)
    assert again
    assert same == model
    assert judged(shared) == judged(results)


def test_ranges_are_whole_segments_that_cover_the_model_in_order():
    for size in (1, BLOCK_COLUMNS, SIZE, 40 * BLOCK_COLUMNS + 1):
        for count in range(1, 17):
            bounds = range_bounds(size, count)
            assert len(bounds) == min(count, -(-size // segment_columns(size)))
            assert (bounds[0].start, bounds[-1].stop) == (0, size)
            assert all(one.stop == other.start for one, other in zip(bounds, bounds[1:], strict=False))
            assert all(one.start % segment_columns(size) == 0 and one.width > 0 for one in bounds)


def test_a_model_too_small_to_share_has_one_range(monkeypatch):
    monkeypatch.undo()
    assert len(range_bounds(SIZE, 16)) == 1


def shared_round(count=3, **options):
    entry = SharedRound(BASE, screened(ranges=count), **options)
    for delta in deltas():
        entry.submit(delta)
    return entry


def test_an_update_that_fails_in_one_range_is_out_of_all():
    entry, alone = SharedRound(BASE, screened(ranges=3)), SharedRound(BASE, screened(ranges=3))
    for number, delta in enumerate(deltas()):
        entry.submit(delta, damaged=2 if number == 4 else None)
    given = deltas()
    for number, delta in enumerate(given):
        alone.submit(delta, **({"round_id": b"x" * 16} if number == 4 else {}))
    judged, model, _ = entry.aggregate()
    assert reasons(judged)[5] == "decryption-failed"
    assert model == alone.aggregate()[1]


def assert_refused(code, because, action, *arguments):
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    assert caught.value.code == code
    assert because in caught.value.detail


def flipped(message):
    return message[:-1] + bytes([message[-1] ^ 1])


def test_a_reading_that_is_altered_missing_or_of_another_range_is_no_reading():
    entry = shared_round()
    readings = entry.readings()
    for wrong in (
        [readings[0], flipped(readings[1]), readings[2]],
        [readings[0], readings[2], readings[1]],
        [readings[0], readings[0], readings[2]],
        [readings[0], b"", readings[2]],
        readings[:2],
        [*readings, readings[2]],
    ):
        assert_refused("enclave-failed", "range", entry.whole()[0].decide, wrong, [])
    assert not entry.record.decisions


@pytest.mark.parametrize("stranger", [{"measurement": b"m" * 64}, {"sealing_key": b"t" * 32}], ids=str)
def test_a_reading_of_other_code_or_of_another_host_or_round_is_no_reading(stranger):
    entry = shared_round()
    readings = entry.readings()
    for name, value in stranger.items():
        setattr(entry, name, value)
    theirs = entry.work(1)[0].read().message
    entry.measurement, entry.sealing_key = SharedRound.measurement, SharedRound.sealing_key
    wrong = [readings[0], theirs, readings[2]]
    assert_refused("enclave-failed", "the reading of range 1", entry.whole()[0].decide, wrong, [])


def test_a_reading_of_other_updates_is_no_reading():
    entry = shared_round()
    readings, fewer = entry.readings(), tuple(entry.submitted[:-1])
    theirs = entry.work(1, updates=fewer)[0].read().message
    wrong = [readings[0], theirs, readings[2]]
    assert_refused("enclave-failed", "the reading of range 1", entry.whole()[0].decide, wrong, [])


def test_a_decision_is_range_0s_alone_and_of_the_same_round():
    entry, other = shared_round(), shared_round()
    decision, _ = entry.decide()
    forged, _ = other.decide()
    readings = entry.readings()
    for wrong in (flipped(decision), forged, readings[0], b""):
        assert_refused("enclave-failed", "the decision of range 0", entry.work(1)[0].combine, wrong)
    assert entry.work(1)[1].outputs == {}


def test_what_a_range_has_seen_is_recorded_before_it_leaves_so_that_it_sees_it_once(tmp_path):
    entry = shared_round(count=2)
    record = DecisionRecord(os.open(tmp_path / "record", os.O_RDWR | os.O_CREAT))
    whole = entry.blobs[3]
    entry.work(1, record=record)[0].read()
    entry.blobs[3] = flipped(whole)
    assert_refused("conflict", "no longer lead", entry.work(1, record=record)[0].read)
    entry.blobs[3] = whole
    entry.work(1, record=record)[0].read()
    fewer = tuple(entry.submitted[:-1])
    assert_refused("conflict", "other updates", entry.work(1, record=record, updates=fewer)[0].read)


def test_slices_are_put_together_only_as_their_ranges_made_them_by_one_decision():
    entry = shared_round()
    decision, _ = entry.decide()
    slices, models = entry.combine(decision), entry.models()
    swapped = [models[1], models[0], models[2]]
    altered = [(models[0][0], flipped(models[0][1])), *models[1:]]
    redescribed = [(replace(models[0][0], digest=b"x" * 32), models[0][1]), *models[1:]]
    for wrong in (swapped, altered, redescribed, models[:2]):
        steps, courier = entry.whole(carried=wrong)
        assert_refused("enclave-failed", "model", steps.conclude, decision, slices)
    steps, _ = entry.whole(carried=models)
    assert_refused(
        "enclave-failed", "the slice of range 1", steps.conclude, decision, [slices[0], slices[2], slices[1]]
    )
    another, _ = entry.decide()  # sealed anew, and the same: a slice of either stands for both
    assert entry.whole(carried=models)[0].conclude(another, slices)


def test_a_slice_of_another_decision_is_not_put_into_the_model(monkeypatch):
    entry = shared_round()
    decision, _ = entry.decide()
    monkeypatch.setattr(RoundKeys, "seed", lambda keys, inputs: b"t" * 32)
    other, _ = entry.decide()
    slices = entry.combine(decision)
    steps, _ = entry.whole(carried=entry.models())
    assert_refused("enclave-failed", "another decision", steps.conclude, other, slices)


def test_a_process_with_the_keys_of_another_range_does_nothing():
    entry = shared_round()
    entry.keys = entry.keys[::-1]
    assert_refused("enclave-failed", "keys of another range", lambda: entry.work(0))


def test_updates_that_are_sealed_to_other_ranges_are_refused_one_by_one():
    entry = shared_round()
    entry.submit(deltas()[0], enclave_key_id=entry.key_ids[0], parts=())
    judged, _, _ = entry.aggregate()
    assert reasons(judged)[8] == "enclave-key-mismatch"
