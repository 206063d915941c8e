"""A model made while the updates are first read: sealed until the decision stands, and never another one."""

import numpy as np
import pytest

from enclave.core.aggregation import BASE_MODEL
from enclave.core.foreseen import SEALED_MODEL
from enclave.core.rules.pipeline import Pipeline
from enclave.core.second_pass import MODEL
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.errors import Refusal
from tests.enclave_core.rounds import MemoryCourier, MemoryRecord, Round, deltas, reasons
from tests.policies import bare

ALONE = ["mean", "weighted-mean", "median", "trimmed-mean", "meamed"]
SHAPE = (300, 170)
"""More than one block and more than one chunk."""


def large_round(policy, count=5):
    entry = Round(base={"w": np.linspace(-1, 1, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)}, policy=policy)
    entry.submit_all(deltas(count, shape=SHAPE))
    return entry


def without_foresight(monkeypatch, entry):
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "foreseen", lambda self, samples: None)
        courier = entry.courier()
        entry.aggregate(courier)
    return courier


@pytest.mark.parametrize("rule", ALONE)
def test_it_is_bit_for_bit_the_model_of_the_second_pass(monkeypatch, rule):
    entry = large_round(bare(rule=Stage(rule)))
    courier = entry.courier()
    entry.aggregate(courier)
    assert courier.model == without_foresight(monkeypatch, entry).model


def test_updates_are_opened_once_only():
    entry = large_round(bare())
    courier = entry.courier()
    entry.aggregate(courier)
    assert [courier.opened.count(source) for source in range(1, 6)] == [1] * 5


@pytest.mark.parametrize(
    "policy",
    [
        AggregationPolicy(),
        bare(rule=Stage("krum")),
        bare(rule=Stage("geometric-median")),
        bare(filters=(Stage("norm-bound"),)),
        bare(pre_aggregation=(Stage("median-clipping"),)),
        bare(history=0.5),
        bare(server_optimiser=Stage("fedavgm")),
        bare(pre_aggregation=(Stage("static-clipping"),), noise=Stage("gaussian")),
    ],
    ids=lambda policy: f"{policy.rule.name}-{len(policy.filters)}-{len(policy.pre_aggregation)}-{policy.history}",
)
def test_nothing_is_foreseen_where_rows_or_state_enter_the_outcome(policy):
    assert Pipeline.of(policy).foreseen(np.full(10, 100.0)) is None


class WatchedRecord(MemoryRecord):
    """Notes what has left when the decision is committed; refuses it where told to."""

    def __init__(self, courier, *, refuses=False):
        super().__init__()
        self._courier, self._refuses, self.left = courier, refuses, None

    def commit_decision(self, decision):
        self.left = dict(self._courier.outputs)
        if self._refuses:
            raise Refusal("conflict", "Another decision stands.")


def test_before_the_decision_stands_only_ciphertext_has_left():
    entry = large_round(bare())
    courier = entry.courier()
    record = WatchedRecord(courier)
    entry.aggregation(courier, record).run()
    assert set(record.left) == {SEALED_MODEL}
    weights = np.frombuffer(courier.model[-SHAPE[1] * 4 :], dtype="<f4")
    assert weights.tobytes() not in record.left[SEALED_MODEL]


def test_the_key_stays_inside_where_the_decision_is_refused():
    entry = large_round(bare())
    courier = entry.courier()
    with pytest.raises(Refusal, match="Another decision"):
        entry.aggregation(courier, WatchedRecord(courier, refuses=True)).run()
    assert MODEL not in courier.outputs


def altered_at(place):
    def altered(content):
        other = bytearray(content)
        other[place] ^= 1
        return bytes(other)

    return altered


@pytest.mark.parametrize("place", [5, -1, -100_000], ids=["its header", "its end", "its middle"])
def test_a_row_that_fails_anywhere_leaves_the_model_to_the_second_pass(monkeypatch, place):
    entry = large_round(bare())
    entry.submit(deltas(1, shape=SHAPE, seed=7)[0], blob=altered_at(place))
    courier = entry.courier()
    judged, _ = entry.aggregate(courier)
    assert reasons(judged).keys() == {6}
    assert courier.model == without_foresight(monkeypatch, entry).model


def test_a_row_that_is_not_finite_leaves_the_model_to_the_second_pass():
    entry = large_round(bare())
    entry.submit(np.full(SHAPE, np.nan, dtype=np.float32))
    judged, model = entry.aggregate()
    assert reasons(judged) == {6: "invalid-tensors"}
    assert np.isfinite(model["w"]).all()


def test_a_blob_of_another_digest_is_out_though_every_chunk_of_it_opens():
    entry = large_round(bare())
    entry.submit(deltas(1, shape=SHAPE, seed=7)[0], ciphertext_digest=bytes(32))
    courier = entry.courier()
    judged, _ = entry.aggregate(courier)
    assert reasons(judged) == {6: "digest-mismatch"}


class ChangingCourier(MemoryCourier):
    """Gives another base model from its second opening on: once it has been checked."""

    def blob(self, source):
        if source == BASE_MODEL and self.opened.count(BASE_MODEL) == 1:
            self.blobs[BASE_MODEL] = altered_at(-1)(self.blobs[BASE_MODEL])
        return super().blob(source)


def test_a_base_model_that_changes_after_its_check_gives_no_model():
    entry = large_round(bare())
    courier = ChangingCourier(entry.courier().blobs)
    with pytest.raises(Refusal, match="could not be made"):
        entry.aggregation(courier).run()
    assert courier.sealed_model_keys == []
