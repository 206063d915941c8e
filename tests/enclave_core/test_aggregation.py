import dataclasses
import os

import numpy as np
import pytest

from enclave.core.aggregation import BASE_MODEL
from enclave.core.host import DecisionRecord
from enclave.core.rules.server_optimisers import NoOptimiser
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import JudgedRound, roster_digest
from qflare_protocol.round_verdicts import COSINE_BELOW_MINIMUM, NORM_ABOVE_BOUND
from qflare_protocol.tensors import encode_tensors
from tests.enclave_core.rounds import MemoryRecord, Round, deltas, device_id, new_signer, reasons
from tests.policies import screened

SHAPE = (40, 17)


def honest_round(count=5, **options):
    entry = Round(**options)
    entry.submit_all(deltas(count))
    return entry


def assert_refused(code, action):
    with pytest.raises(Refusal) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def test_the_new_model_is_the_base_plus_the_mean_weighted_by_samples():
    entry, given, counts = Round(), deltas(4), [10, 20, 30, 40]
    for delta, count in zip(given, counts, strict=True):
        entry.submit(delta, sample_count=count)
    judged, model = entry.aggregate()
    expected = entry.base["w"] + np.average(np.array(given, dtype=np.float64), axis=0, weights=counts)
    np.testing.assert_allclose(model["w"], expected, rtol=1e-5, atol=1e-6)
    assert judged.result.sample_total == 100
    assert [verdict.scores.weight for verdict in judged.verdicts] == [0.1, 0.2, 0.3, 0.4]


def test_two_poisoned_of_ten_are_rejected_and_leave_no_trace_in_the_model():
    entry, given = Round(), deltas(10, poisoned=2)
    entry.submit_all(given)
    judged, model = entry.aggregate()
    assert set(reasons(judged)) == {1, 2}
    assert set(reasons(judged).values()) <= {NORM_ABOVE_BOUND, COSINE_BELOW_MINIMUM}
    np.testing.assert_allclose(model["w"], entry.base["w"] + np.mean(given[2:], axis=0), rtol=1e-5, atol=1e-6)
    assert all(verdict.scores.weight == 0.0 for verdict in judged.rejected)


def test_the_result_names_everything_it_rests_on():
    entry = honest_round()
    judged, _ = entry.aggregate()
    assert judged.result.roster_digest == roster_digest(entry.roster)
    assert judged.result.policy_digest == entry.policy.digest()
    assert judged.result.enclave_key_id == entry.key_id
    assert [verdict.device_id for verdict in judged.verdicts] == sorted(entry.signers)


def test_the_order_of_arrival_changes_neither_model_nor_payload():
    entry = Round()
    entry.submit_all(deltas(7, poisoned=1))
    first_courier, second_courier = entry.courier(), entry.courier()
    first, _ = entry.aggregate(first_courier)
    second_courier.blobs = {BASE_MODEL: entry.base_bytes} | entry.sources(order=-1)
    second, _ = entry.aggregate(second_courier, updates=tuple(entry.submitted[::-1]))
    assert first == second
    assert first_courier.model == second_courier.model
    assert entry.record.inputs[0] == entry.record.inputs[1]
    assert entry.record.decisions[0] == entry.record.decisions[1]


def test_many_ranges_and_tensors_give_what_one_would():
    base = {"a": np.zeros((300, 300), dtype=np.float32), "b": np.ones(7, dtype=np.float32)}
    entry = Round(base=base)
    generator = np.random.default_rng(3)
    common = {name: generator.normal(size=array.shape) for name, array in base.items()}
    given = [
        {name: (value + generator.normal(size=value.shape)).astype(np.float32) for name, value in common.items()}
        for _ in range(4)
    ]
    entry.submit_all([encode_tensors(delta) for delta in given])
    _, model = entry.aggregate()
    for name, array in base.items():
        expected = array + np.mean([delta[name] for delta in given], axis=0)
        np.testing.assert_allclose(model[name], expected, rtol=1e-5, atol=1e-6)


def test_each_source_is_read_at_most_twice_and_a_rejected_one_once():
    entry = Round()
    entry.submit_all(deltas(5, poisoned=1))
    courier = entry.courier()
    entry.aggregate(courier)
    assert courier.opened.count(BASE_MODEL) == 2
    assert [courier.opened.count(source) for source in range(1, 6)] == [1, 2, 2, 2, 2]
    assert courier.steps == ["check", "read", "decide", "combine"]


@pytest.mark.parametrize(
    "claims, reason",
    [
        ({"round_id": b"x" * 16}, "round-closed"),
        ({"federation_id": b"x" * 16}, "round-closed"),
        ({"base_model_digest": b"x" * 32}, "base-model-mismatch"),
        ({"enclave_key_id": b"x" * 32}, "enclave-key-mismatch"),
        ({"device_id": device_id(1)}, "not-invited"),
        ({"sample_count": 1001}, "sample-count-refused"),
        ({"ciphertext_bytes": 10**6}, "update-too-large"),
        ({"ciphertext_bytes": 100}, "digest-mismatch"),
        ({"ciphertext_bytes": 9999}, "digest-mismatch"),
        ({"ciphertext_digest": b"x" * 32}, "digest-mismatch"),
    ],
    ids=str,
)
def test_an_update_whose_manifest_does_not_fit_drops_out_alone(claims, reason):
    policy = screened(maximum_sample_count=1000, maximum_update_bytes=10_000)
    entry = honest_round(4, policy=policy)
    alone, alone_model = entry.aggregate()
    entry.submit(deltas(1)[0], **claims)
    judged, model = entry.aggregate()
    assert reasons(judged) == {5: reason}
    assert judged.accepted == alone.accepted
    assert model["w"].tobytes() == alone_model["w"].tobytes()


def bad_value(value):
    delta = np.ones(SHAPE, dtype=np.float32)
    delta[39, 16] = value
    return delta


@pytest.mark.parametrize(
    "plaintext, reason",
    [
        (bad_value(np.nan), "invalid-tensors"),
        (bad_value(np.inf), "invalid-tensors"),
        (bad_value(-np.inf), "invalid-tensors"),
        (bad_value(3e38), "invalid-tensors"),
        (bad_value(1e20), "invalid-tensors"),
        (np.ones((17, 40), dtype=np.float32), "invalid-tensors"),
        (np.ones((1, 17), dtype=np.float32), "invalid-tensors"),
        (np.ones((1,), dtype=np.float32), "invalid-tensors"),
        (encode_tensors({"v": np.ones(SHAPE, dtype=np.float32)}), "invalid-tensors"),
        (encode_tensors({"w": np.ones(SHAPE, dtype=np.float32)})[:-4], "invalid-tensors"),
        (encode_tensors({"w": np.ones(SHAPE, dtype=np.float32)}) + b"\0" * 4, "invalid-tensors"),
        (b"", "invalid-tensors"),
        (b"\x80\x04K\x01.", "invalid-tensors"),
    ],
    ids=range(13),
)
def test_an_update_whose_tensors_do_not_fit_drops_out_alone(plaintext, reason):
    entry = honest_round(4)
    alone, alone_model = entry.aggregate()
    entry.submit(plaintext)
    judged, model = entry.aggregate()
    assert reasons(judged) == {5: reason}
    assert judged.accepted == alone.accepted
    assert model["w"].tobytes() == alone_model["w"].tobytes()


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda sealed: b"", "digest-mismatch"),
        (lambda sealed: sealed[:-1], "digest-mismatch"),
        (lambda sealed: sealed[:1000], "digest-mismatch"),
        (lambda sealed: sealed[:2000] + bytes([sealed[2000] ^ 1]) + sealed[2001:], "decryption-failed"),
        (lambda sealed: sealed + b"more", "digest-mismatch"),
    ],
    ids=range(5),
)
def test_a_damaged_blob_drops_out_alone(damage, reason):
    entry = honest_round(4)
    entry.submit(deltas(1)[0], blob=damage)
    judged, _ = entry.aggregate()
    assert reasons(judged) == {5: reason}
    assert len(judged.accepted) == 4


def test_a_manifest_by_mallory_or_of_a_stranger_drops_out():
    entry = honest_round(4)
    entry.submit(deltas(1)[0], signer=new_signer())
    stranger = entry.submit(deltas(1)[0])
    roster = tuple(member for member in entry.roster if member.device_id != stranger)
    judged, _ = entry.aggregate(roster=roster)
    assert reasons(judged) == {5: "invalid-signature", 6: "not-invited"}


def test_an_unreadable_manifest_drops_out():
    entry = honest_round(4)
    entry.submitted.append(dataclasses.replace(entry.submitted[0], device_id=device_id(1), manifest=b"\xff"))
    entry.blobs.append(b"")
    judged, _ = entry.aggregate()
    assert [verdict.reason for verdict in judged.rejected] == ["malformed-message"]


def test_of_two_updates_by_one_device_one_counts_whatever_their_order():
    entry = honest_round(4)
    entry.submit(1.1 * deltas(4)[0], number=1)
    judged, model = entry.aggregate()
    assert [verdict.reason for verdict in judged.rejected] == ["already-submitted"]
    courier = entry.courier()
    courier.blobs = {BASE_MODEL: entry.base_bytes} | entry.sources(order=-1)
    again, same = entry.aggregate(courier, updates=tuple(entry.submitted[::-1]))
    assert again == judged
    assert same["w"].tobytes() == model["w"].tobytes()


def test_fewer_acceptable_updates_than_the_minimum_give_no_model_but_reasons():
    entry = Round()
    entry.submit_all(deltas(2))
    entry.submit(bad_value(np.nan))
    courier = entry.courier()
    refusal = assert_refused("too-few-updates", lambda: entry.aggregate(courier))
    assert courier.model == b""
    assert len(entry.record.decisions) == 1
    assert [verdict["reason"] for verdict in refusal.extensions["verdicts"]] == [None, None, "invalid-tensors"]


def test_a_round_without_updates_is_refused():
    assert_refused("too-few-updates", Round().aggregate)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_updates_than_the_minimum_are_refused_before_anything_is_read(count):
    entry = honest_round(count)
    courier = entry.courier()
    refusal = assert_refused("too-few-updates", lambda: entry.aggregate(courier))
    assert courier.opened == []
    assert entry.record.inputs == entry.record.decisions == []
    assert refusal.extensions["verdicts"] == []


def test_manifests_that_do_not_hold_do_not_count_towards_the_minimum():
    entry = honest_round(2)
    entry.submit(deltas(1)[0], signer=new_signer())
    entry.submit(deltas(1)[0], number=1)
    courier = entry.courier()
    refusal = assert_refused("too-few-updates", lambda: entry.aggregate(courier))
    assert courier.opened == []
    reasons_given = {verdict["reason"] for verdict in refusal.extensions["verdicts"]}
    assert reasons_given == {"already-submitted", "invalid-signature"}


def test_another_base_model_than_the_requests_is_refused():
    entry = honest_round()
    courier = entry.courier()
    courier.blobs[BASE_MODEL] = encode_tensors({"w": np.zeros(SHAPE, dtype=np.float32)})
    assert_refused("digest-mismatch", lambda: entry.aggregate(courier))


def test_a_base_model_that_is_no_container_is_refused():
    entry = honest_round()
    courier = entry.courier()
    courier.blobs[BASE_MODEL] = b"pickle"
    assert_refused("invalid-tensors", lambda: entry.aggregate(courier))


@pytest.mark.parametrize("source", [BASE_MODEL, 1])
def test_a_source_that_changes_between_the_readings_gives_no_signed_result(source):
    entry = honest_round()
    courier = entry.courier()
    unchanged = courier.blob

    def changing(asked):
        blob = unchanged(asked)
        if asked == source and courier.opened.count(source) == 2:
            blob.content = blob.content[:-1] + bytes([blob.content[-1] ^ 1])
        return blob

    courier.blob = changing
    refusal = assert_refused("enclave-failed", lambda: entry.aggregate(courier))
    assert "could not be made" in refusal.detail


class RefusingRecord(MemoryRecord):
    """Finds another digest of the named kind in its place."""

    def __init__(self, kind):
        super().__init__()
        setattr(self, f"commit_{kind}", self.refuse)

    def refuse(self, digest):
        raise Refusal("conflict", "another stands")


def test_nothing_is_read_before_the_inputs_are_recorded():
    entry = honest_round()
    courier = entry.courier()
    assert_refused("conflict", entry.aggregation(courier, RefusingRecord("inputs")).run)
    assert courier.opened == []


@pytest.mark.parametrize("unlike", [0, 3], ids=["enough", "too few"])
def test_neither_model_nor_verdicts_leave_before_the_decision_is_recorded(unlike):
    entry = honest_round(3)
    entry.blobs[:unlike] = [b"damaged"] * unlike
    courier = entry.courier()
    aggregation = entry.aggregation(courier, RefusingRecord("decision"))
    refusal = assert_refused("conflict", aggregation.run)
    assert courier.model == b""
    assert refusal.extensions == {}
    assert courier.steps == ["check", "read"]


def test_the_recorded_inputs_name_updates_roster_policy_and_base_model():
    entry = honest_round(6)
    entry.aggregate()
    entry.aggregate(updates=tuple(entry.submitted[:-1]))
    entry.aggregate(policy=screened(history=0.5))
    entry.aggregate(roster=(*entry.roster, dataclasses.replace(entry.roster[0], device_id=device_id(99))))
    with pytest.raises(Refusal):
        entry.aggregate(base_model_digest=b"x" * 32, updates=tuple(entry.submitted))
    assert len(entry.record.inputs) == len(set(entry.record.inputs)) == 4
    assert len(set(entry.record.decisions)) == 4


@pytest.fixture
def record():
    with os.fdopen(os.memfd_create("decision"), "rb") as file:
        yield DecisionRecord(file.fileno())


def too_few(entry, courier, record):
    refusal = assert_refused("too-few-updates", entry.aggregation(courier, record).run)
    return refusal.detail, refusal.extensions


def success(entry, courier, record):
    return entry.aggregation(courier, record).run()


def crash_after_the_inputs(entry, courier, record):
    def crash(source):
        raise OSError("the blob storage is away")

    courier.blob = crash
    with pytest.raises(OSError):
        entry.aggregation(courier, record).run()


def one_of_a_direction_of_its_own():
    """Five updates, of which four agree: with a minimum of five they are too few, with three enough."""
    return deltas(5, poisoned=1)


@pytest.mark.parametrize(
    "first, minimum", [(too_few, 5), (success, 3), (crash_after_the_inputs, 3)], ids=["too few", "success", "crash"]
)
@pytest.mark.parametrize("change", ["one less", "one more"])
def test_a_round_once_begun_answers_nothing_about_another_set_of_updates(first, minimum, change, record):
    entry = Round(policy=screened(minimum_updates=minimum))
    entry.submit_all(one_of_a_direction_of_its_own())
    entry.submit(deltas(1, seed=7)[0])
    asked_later = tuple(entry.submitted[:-1]) if change == "one less" else tuple(entry.submitted)
    asked_first = tuple(entry.submitted) if change == "one less" else tuple(entry.submitted[:-1])
    entry.submitted = list(asked_first)
    first(entry, entry.courier(), record)
    courier = entry.courier()
    aggregation = entry.aggregation(courier, record, updates=asked_later)
    refusal = assert_refused("conflict", aggregation.run)
    assert courier.opened == []
    assert refusal.extensions == {}


def test_the_same_updates_again_after_too_few_give_the_same_refusal(record):
    entry = Round(policy=screened(minimum_updates=5))
    entry.submit_all(one_of_a_direction_of_its_own())
    assert too_few(entry, entry.courier(), record) == too_few(entry, entry.courier(), record)


def test_a_crash_after_the_inputs_were_recorded_leaves_the_round_to_a_successor(record):
    entry = honest_round()
    crash_after_the_inputs(entry, entry.courier(), record)
    first, second = entry.courier(), entry.courier()
    verifier = entry.keys.result_signer.verifier
    payloads = [JudgedRound.verified(success(entry, courier, record), verifier) for courier in (first, second)]
    assert payloads[0] == payloads[1]
    assert first.model == second.model


def test_an_update_that_heals_after_the_decision_is_a_conflict(record):
    entry = honest_round()
    damaged = entry.courier()
    damaged.blobs[1] = b"damaged"
    success(entry, damaged, record)
    healed = entry.courier()
    assert_refused("conflict", lambda: success(entry, healed, record))
    assert healed.model == b""


def test_an_aggregate_that_overflows_is_refused(monkeypatch):
    """No update gets there alone, as its square has to fit float32; what comes of the updates may."""
    monkeypatch.setattr(NoOptimiser, "step", lambda self, aggregate, state: aggregate * np.float32(1e38))
    entry = Round(base={"w": np.full(SHAPE, 3e38, dtype=np.float32)})
    entry.submit_all([np.ones(SHAPE, dtype=np.float32)] * 3)
    refusal = assert_refused("enclave-failed", entry.aggregate)
    assert "not finite" in refusal.detail


def test_a_base_model_that_is_not_finite_gives_no_model():
    entry = Round(base={"w": bad_value(np.inf)})
    entry.submit_all(deltas(3))
    courier = entry.courier()
    assert_refused("invalid-tensors", lambda: entry.aggregate(courier))
    assert courier.opened == [BASE_MODEL]
