from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from enclave.core.rules.filters import Sight
from enclave.core.rules.pipeline import Pipeline, Rows
from enclave.core.rules.span import Span
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.round_verdicts import COSINE_BELOW_MINIMUM, NORM_ABOVE_BOUND
from tests.enclave_core.rounds import deltas
from tests.policies import SCREENED


def policy_with(ratio=3.0, minimum=0.0):
    return replace(
        SCREENED, filters=(Stage("norm-bound", {"ratio": ratio}), Stage("consensus-cosine", {"minimum": minimum}))
    )


POLICY = policy_with()
LOOSE = policy_with(ratio=1000.0)


def matrix(count, columns=30):
    elements = st.floats(-100, 100, width=32).map(lambda value: round(value, 3))
    return npst.arrays(np.float64, (count, columns), elements=elements)


@dataclass(frozen=True)
class Seen:
    norm: float
    norm_ratio: float
    cosine: float
    reason: str | None


def screened(rows, policy=POLICY):
    """Return what the pipeline's filters make of each row."""
    rows = np.asarray(rows, dtype=np.float64)
    span = Span.of_gram(rows @ rows.T)
    decision = Pipeline.of(policy).decide(Rows(span, np.ones(len(rows)), seed=bytes(32)))
    return [
        Seen(decision.norms[i], decision.norm_ratios[i], decision.cosines[i], decision.reasons.get(i))
        for i in range(len(rows))
    ]


def naive_screen(rows, policy):
    """The same rule on the n×d array itself: what the Gram matrix must agree with."""
    norms = np.linalg.norm(rows, axis=1)
    median = np.median(norms)
    kept = [i for i in range(len(rows)) if norms[i] <= policy.filters[0].parameters["ratio"] * median]
    units = [row / norm if norm else row for row, norm in zip(rows, norms, strict=True)]
    while kept:
        cosines = {i: naive_cosine(units[i], [units[j] for j in kept if j != i]) for i in kept}
        worst = min(cosines, key=lambda i: (cosines[i], i))
        if cosines[worst] >= policy.filters[1].parameters["minimum"]:
            break
        kept.remove(worst)
    return kept


def naive_cosine(unit, others):
    consensus = np.sum(others, axis=0) if others else np.zeros_like(unit)
    length = np.linalg.norm(consensus)
    return float(unit @ consensus / length) if length > 3e-5 else 0.0


@given(st.integers(3, 9).flatmap(matrix))
@settings(max_examples=150, deadline=None)
def test_the_gram_matrix_decides_as_the_updates_themselves_would(rows):
    policy = policy_with(minimum=0.0371, ratio=1.7713)
    accepted = [i for i, seen in enumerate(screened(rows, policy)) if seen.reason is None]
    assert accepted == naive_screen(rows, policy)


@given(st.integers(2, 8).flatmap(matrix))
@settings(max_examples=100, deadline=None)
def test_consensus_cosines_are_those_of_the_vectors(rows):
    sight = Sight(Span.of_gram(rows @ rows.T))
    members = list(range(1, len(rows)))
    units = [row / norm if norm else row for row, norm in zip(rows, sight.norms, strict=True)]
    expected = [naive_cosine(units[i], [units[j] for j in members if j != i]) for i in range(len(rows))]
    np.testing.assert_allclose(sight.consensus_cosines(members), expected, atol=1e-6)


@pytest.mark.parametrize("count, poisoned", [(6, 1), (8, 2), (10, 2), (12, 2), (20, 4), (20, 8)])
def test_flipped_and_scaled_updates_fall_and_honest_ones_stay(count, poisoned):
    rows = [delta.ravel() for delta in deltas(count, poisoned)]
    for policy in (POLICY, LOOSE):
        verdicts = screened(rows, policy)
        assert [seen.reason is None for seen in verdicts] == [index >= poisoned for index in range(count)]


def test_a_long_update_is_rejected_for_its_norm_and_a_flipped_one_for_its_direction():
    rows = [delta.ravel() for delta in deltas(8)]
    rows[0], rows[1] = 5 * rows[0], -rows[1]
    verdicts = screened(rows)
    assert verdicts[0].reason == NORM_ABOVE_BOUND
    assert verdicts[0].norm_ratio == pytest.approx(5, rel=0.2)
    assert verdicts[1].reason == COSINE_BELOW_MINIMUM
    assert verdicts[1].cosine < -0.5


def test_scale_gives_an_attacker_no_pull_on_the_consensus():
    rows = [delta.ravel() for delta in deltas(6, 1)]
    farther = [rows[0] * 50, *rows[1:]]
    one, other = screened(rows, LOOSE), screened(farther, LOOSE)
    assert [seen.cosine for seen in one] == pytest.approx([seen.cosine for seen in other], abs=1e-9)


def test_the_norm_bound_holds_at_its_edge():
    rows = np.diag([1.0, 1.0, 1.0, 3.0]) + 0.0
    rows[3] = [0, 0, 0, 3.0]
    assert screened(rows)[3].reason is None
    rows[3, 3] = 3.0000001
    assert screened(rows)[3].reason == NORM_ABOVE_BOUND


def test_the_order_of_the_updates_changes_no_verdict():
    rows = [delta.ravel() for delta in deltas(10, 3)]
    forwards, backwards = screened(rows), screened(rows[::-1])
    assert [seen.reason for seen in forwards] == [seen.reason for seen in backwards][::-1]


def test_a_zero_update_has_no_direction():
    rows = [*(delta.ravel() for delta in deltas(5)), np.zeros(680)]
    assert screened(rows)[5].cosine == 0.0
    assert screened(rows, policy_with(minimum=0.01))[5].reason == COSINE_BELOW_MINIMUM


def test_updates_that_are_all_zero_change_nothing_and_divide_by_nothing():
    verdicts = screened(np.zeros((4, 5)))
    assert [(seen.norm, seen.norm_ratio, seen.cosine, seen.reason) for seen in verdicts] == [(0.0, 0.0, 0.0, None)] * 4


def test_a_median_of_zero_rejects_everything_longer():
    ratios = Sight(Span.of_gram(np.diag([0.0, 0.0, 0.0, 1.0]))).norm_ratios
    assert ratios[0] == 0.0
    assert np.isfinite(ratios[3])
    assert screened(np.diag([0.0, 0.0, 0.0, 1.0]))[3].reason == NORM_ABOVE_BOUND


def test_two_opposite_updates_cancel_and_nobody_is_left_to_agree_with():
    verdicts = screened([[1.0, 0.0], [-1.0, 0.0]], policy_with(minimum=0.5))
    assert {seen.reason for seen in verdicts} == {COSINE_BELOW_MINIMUM}


def test_huge_finite_updates_do_not_overflow():
    rows = np.full((4, 10), 3e38)
    assert all(np.isfinite(seen.norm) and seen.reason is None for seen in screened(rows))
