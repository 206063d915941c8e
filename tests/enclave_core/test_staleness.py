"""Updates to older base models: which are taken, how much less they count, and what the signed judged says of it."""

from dataclasses import replace

import numpy as np
import pytest

from enclave.core.rules.pipeline import Pipeline
from qflare_protocol import ranges
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.encoding import decode
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.staleness import OlderBase, staleness_factor
from qflare_protocol.tensors import decode_tensors, encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update
from tests.enclave_core.rounds import FEDERATION, ROUND, MemoryRecord, Round, device_id, reasons
from tests.enclave_core.shared_rounds import SharedRound, sealed_parts
from tests.policies import bare

OLDER = tuple(OlderBase(bytes([age]) * 32, age) for age in (1, 3, 8))
SHAPE = (40, 17)
DELTAS = [np.full(SHAPE, value, dtype=np.float32) for value in (1.0, 2.0, 4.0, 8.0)]


def stale_round(policy, ages=(0, 1, 3, 0), samples=(100, 100, 100, 100)):
    """Return a round whose updates were trained from bases of these ages."""
    entry = Round(policy=policy)
    for delta, age, count in zip(DELTAS, ages, samples, strict=True):
        submit(entry, delta, age, sample_count=count)
    return entry


def submit(entry, delta, age, *, sealed_for=None, **claims):
    digests = {0: model_digest(entry.base_bytes)} | {base.staleness: base.digest for base in OLDER}
    said = digests.get(age, bytes(32))
    name = device_id(len(entry.submitted) + 1)
    context = UpdateContext(FEDERATION, ROUND, name, entry.key_id, digests.get(sealed_for, said))
    plaintext = entry.base | {"w": delta}
    from_tensors = b"".join(seal_update(entry.hpke_public, context, encode_tensors(plaintext)))
    claims = {"ciphertext_digest": model_digest(from_tensors), "ciphertext_bytes": len(from_tensors)} | claims
    entry.submit(delta, blob=lambda _: from_tensors, base_model_digest=said, **claims)


def aggregate(entry, **changes):
    judged, model = entry.aggregate(older_bases=OLDER[:2], **changes)
    return judged, float((model["w"] - entry.base["w"]).mean())


def test_the_weighted_mean_weighs_stale_updates_less():
    entry = stale_round(bare(rule=Stage("weighted-mean"), maximum_staleness=8), samples=(100, 200, 300, 400))
    _, step = aggregate(entry)
    weights = np.array([100, 200 / np.sqrt(2), 300 / 2, 400])
    assert step == pytest.approx(weights @ [1, 2, 4, 8] / weights.sum(), rel=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 4.0])
def test_the_plain_mean_takes_stale_updates_shortened(exponent):
    _, step = aggregate(stale_round(bare(maximum_staleness=8, staleness_exponent=exponent)))
    factors = [1, 2.0**-exponent, 4.0**-exponent, 1]
    assert step == pytest.approx(np.dot(factors, [1, 2, 4, 8]) / 4, rel=1e-5)


@pytest.mark.parametrize(
    "rule", ["median", "trimmed-mean", "krum", "geometric-median", "centered-clipping", "weighted-mean"]
)
def test_every_rule_gives_what_it_gives_for_shortened_fresh_updates(rule):
    changes = {"rule": Stage(rule), "history": 0.5}
    entry = stale_round(bare(maximum_staleness=8, **changes))
    fresh = Round(policy=bare(**changes))
    for delta, factor, weight in zip(DELTAS, (1, 2**-0.5, 0.5, 1), (1, 2**-0.5, 0.5, 1), strict=True):
        scaled = delta if rule == "weighted-mean" else (np.float32(factor) * delta).astype(np.float32)
        fresh.submit(scaled, sample_count=round(10**8 * weight) if rule == "weighted-mean" else 100)
    fresh.policy = replace(fresh.policy, maximum_sample_count=10**9)
    _, expected = fresh.aggregate()
    _, step = aggregate(entry)
    assert step == pytest.approx(float((expected["w"] - fresh.base["w"]).mean()), rel=1e-5)


def test_a_norm_bound_sees_what_enters_the_round():
    policy = bare(filters=(Stage("norm-bound", {"ratio": 3.0}),), maximum_staleness=8, staleness_exponent=1.0)
    entry = Round(policy=policy)
    for value, age in ((1.0, 0), (1.0, 0), (1.0, 0), (8.0, 3), (8.0, 1)):
        submit(entry, np.full(SHAPE, value, dtype=np.float32), age)
    judged, _ = aggregate(entry)
    assert reasons(judged) == {5: "norm-above-bound"}
    scores = [verdict.scores.norm_ratio for verdict in judged.verdicts]
    assert scores == pytest.approx([1, 1, 1, 2, 4], rel=1e-5)


def test_the_result_says_how_stale_everything_was():
    judged, _ = aggregate(stale_round(bare(maximum_staleness=8)))
    assert judged.result.older_bases == OLDER[:2]
    assert [verdict.staleness for verdict in judged.verdicts] == [0, 1, 3, 0]
    assert judged.result.sample_total == 400
    leaves = [decode(verdict.encoded(), what="verdict") for verdict in judged.verdicts]
    assert [leaf.get("staleness") for leaf in leaves] == [None, 1, 3, None]


def test_a_base_that_the_round_does_not_name_is_refused():
    entry = stale_round(bare(maximum_staleness=8))
    submit(entry, DELTAS[0], 8)
    submit(entry, DELTAS[0], 5)
    judged, _ = aggregate(entry)
    assert reasons(judged) == {5: "base-model-mismatch", 6: "base-model-mismatch"}
    assert [verdict.staleness for verdict in judged.rejected] == [0, 0]


def test_an_update_that_was_sealed_for_another_base_than_it_names_does_not_open():
    entry = stale_round(bare(maximum_staleness=8))
    submit(entry, DELTAS[0], 0, sealed_for=3)
    submit(entry, DELTAS[0], 3, sealed_for=0)
    judged, _ = aggregate(entry)
    assert reasons(judged) == {5: "decryption-failed", 6: "decryption-failed"}


def test_a_round_without_older_bases_takes_updates_to_its_own_only():
    entry = stale_round(bare(maximum_staleness=8, minimum_updates=3), ages=(0, 0, 1, 0))
    assert reasons(entry.aggregate()[0]) == {3: "base-model-mismatch"}


def test_older_bases_than_the_policy_allows_are_refused_before_anything_is_read():
    entry = stale_round(bare(maximum_staleness=2))
    with pytest.raises(Refusal) as caught:
        aggregate(entry)
    assert caught.value.code == "policy-refused"
    assert (entry.record.inputs, entry.record.decisions) == ([], [])


def test_the_inputs_of_a_round_are_bound_to_its_older_bases():
    entry, committed = stale_round(bare(maximum_staleness=8)), []
    for older in ((), OLDER[:1], OLDER[:2], (OlderBase(OLDER[0].digest, 3),)):
        record = MemoryRecord()
        try:
            entry.aggregation(entry.courier(), record, older_bases=older).run()
        except Refusal as refusal:
            assert refusal.code == "too-few-updates"
        else:
            committed.append(record.inputs[0])
    assert len(set(committed)) == len(committed) == 3


def test_weights_and_older_bases_do_not_go_together():
    with pytest.raises(Refusal) as caught:
        Pipeline.of(bare(form=Stage("weights"), maximum_staleness=1))
    assert caught.value.code == "policy-refused" and "older base" in caught.value.detail
    for form in ("delta", "bfloat16", "int8-blocks", "random-mask"):
        Pipeline.of(bare(form=Stage(form), maximum_staleness=64))


@pytest.mark.parametrize("rule", ["mean", "weighted-mean", "median", "krum"])
def test_ranges_make_the_model_of_one_process_bit_for_bit(monkeypatch, rule):
    monkeypatch.setattr(ranges, "SMALLEST_SEGMENT_BLOCKS", 1)
    base = np.linspace(-1, 1, 3 * BLOCK_COLUMNS + 7, dtype=np.float32)
    generator, models = np.random.default_rng(5), []
    deltas = [generator.normal(size=base.size).astype(np.float32) for _ in range(4)]
    for processes in (1, 3):
        policy = bare(rule=Stage(rule), ranges=processes, maximum_staleness=8)
        models.append(shared_model(monkeypatch, base, policy, deltas))
    assert models[0].tobytes() == models[1].tobytes()


def shared_model(monkeypatch, base, policy, deltas):
    entry = SharedRound(base, policy) if policy.ranges > 1 else Round(base={"w": base}, policy=policy)
    keys = entry.keys if policy.ranges > 1 else [entry.keys]
    for number, (delta, age) in enumerate(zip(deltas, (0, 1, 3, 0), strict=True), start=1):
        digest = next((one.digest for one in OLDER if one.staleness == age), model_digest(entry.base_bytes))
        context = UpdateContext(FEDERATION, ROUND, device_id(number), keys[0].key_id, digest)
        blob, parts = sealed_parts(context, keys, delta, policy.ranges)
        claims = {"base_model_digest": digest, "ciphertext_digest": model_digest(blob), "sample_count": 100}
        entry.submit(delta, **claims, ciphertext_bytes=len(blob), parts=parts)
        entry.blobs[-1] = blob
    if policy.ranges == 1:
        judged, model = entry.aggregate(older_bases=OLDER)
    else:
        ask = entry.request
        monkeypatch.setattr(entry, "request", lambda carried: ask(carried, older_bases=OLDER))
        judged, made, _ = entry.aggregate()
        model = decode_tensors(made)
    assert [verdict.staleness for verdict in judged.verdicts] == [0, 1, 3, 0]
    return model["w"]


@pytest.mark.parametrize("staleness", range(0, 65, 8))
def test_a_factor_is_at_most_one_and_falls_with_age(staleness):
    factors = [staleness_factor(staleness, exponent) for exponent in (0.0, 0.5, 4.0)]
    assert factors[0] == 1.0
    assert 1.0 >= factors[1] >= factors[2] > 0
    assert staleness_factor(staleness + 1, 0.5) < factors[1]
