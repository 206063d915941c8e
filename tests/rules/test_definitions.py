"""Parts that byzfl does not have, against their papers' definitions written out plainly."""

import numpy as np
import pytest
from scipy.stats import kstest

from enclave.core.rules import gram
from enclave.core.rules.filters import Sight
from enclave.core.rules.gram import GramAccumulator, gram_of, look
from enclave.core.rules.in_memory import Aggregator, MatrixSource
from enclave.core.rules.noise import standard_normals
from enclave.core.rules.order_statistics import MOST_ROWS_BY_NETWORK, mean_around_median, middle_mean, sorted_rows
from enclave.core.rules.pre_aggregation import Bucketing, MedianClipping, QuantileClipping
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS
from enclave.core.rules.span import Span
from qflare_protocol import ranges
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.ranges import BLOCK_COLUMNS, segment_columns
from tests.policies import bare
from tests.rules.updates import KINDS, updates_of


def pipeline(rule, *before, fraction=0.0, **more):
    return bare(pre_aggregation=before, rule=Stage(rule), tolerated_fraction=fraction, **more)


def naive_bulyan(updates, f):
    """El Mhamdi et al. 2018: repeated Krum with n - f - 2 neighbours, then the values nearest to the medians."""
    left, chosen = list(range(len(updates))), []
    for _ in range(len(updates) - 2 * f):
        neighbours = max(1, len(left) - f - 2)
        scores = [
            sum(sorted(np.sum((updates[i] - updates[j]) ** 2) for j in left if j != i)[:neighbours]) for i in left
        ]
        chosen.append(left.pop(int(np.argmin(scores))))
    rows = updates[sorted(chosen)]
    median = np.median(rows, axis=0)
    nearest = np.argsort(np.abs(rows - median), axis=0)[: len(rows) - 2 * f]
    return np.take_along_axis(rows, nearest, axis=0).mean(axis=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "identical-attackers"])
def test_bulyan_is_repeated_krum_and_the_values_around_the_median(kind):
    updates = updates_of(kind, 15, 3, columns=2000)
    policy = pipeline("bulyan", fraction=0.2, minimum_updates=15)
    mine, _ = Aggregator(policy).aggregate(updates)
    expected = naive_bulyan(updates.astype(np.float64), 3)
    assert np.linalg.norm(mine - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("kept", [1, 4, 9])
def test_the_values_around_the_median_are_the_nearest_ones(kept):
    block = np.random.default_rng(3).normal(size=(9, 500)).astype(np.float32)
    median = np.median(block, axis=0)
    nearest = np.argsort(np.abs(block - median), axis=0)[:kept]
    expected = np.take_along_axis(block, nearest, axis=0).mean(axis=0)
    np.testing.assert_allclose(mean_around_median(block, kept), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [*range(1, 13), 20, MOST_ROWS_BY_NETWORK, MOST_ROWS_BY_NETWORK + 1, 100])
def test_columns_come_in_order_by_network_and_by_sorting(count):
    block = np.random.default_rng(count).integers(0, 9, size=(count, 300)).astype(np.float32)
    np.testing.assert_array_equal(sorted_rows(block), np.sort(block, axis=0))
    for trimmed in range((count - 1) // 2 + 1):
        expected = np.sort(block, axis=0)[trimmed : count - trimmed].mean(axis=0)
        np.testing.assert_allclose(middle_mean(block, trimmed), expected, rtol=1e-5, atol=1e-6)


def test_buckets_are_means_and_change_with_the_seed_only():
    rows = Span.of_gram(np.eye(7))
    drawn = [Bucketing(size=3).weights(rows, 0, bytes([seed]) * 32) for seed in (1, 1, 2)]
    assert drawn[0].shape == (3, 7)
    assert np.count_nonzero(drawn[0], axis=1).tolist() == [3, 3, 1]
    np.testing.assert_allclose(drawn[0].sum(axis=1), 1.0)
    assert (np.count_nonzero(drawn[0], axis=0) == 1).all()
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_median_clipping_shortens_the_longer_half():
    weights = MedianClipping().weights(Span.of_gram(np.diag([1.0, 4.0, 9.0])), 0, b"")
    np.testing.assert_allclose(np.diag(weights), [1.0, 1.0, 2 / 3])


def test_a_distance_is_as_precise_as_its_updates_are_close():
    generator = np.random.default_rng(5)
    rows = (1000 * generator.normal(size=5000) + 1e-2 * generator.normal(size=(6, 5000))).astype(np.float32)
    exact = rows.astype(np.float64)
    expected = ((exact[:, None] - exact[None]) ** 2).sum(axis=2)
    source = MatrixSource(rows)
    coarse = Span.of_gram(gram_of(source, range(6))).squared_distances()
    fine = look(source, 6, 0, gram_of(source, range(6))).squared_distances()
    assert np.max(np.abs(coarse - expected)) > 0.1 * expected.max()
    np.testing.assert_allclose(fine, expected, rtol=1e-3)


def test_a_span_about_a_pivot_is_the_same_rows():
    rows = np.random.default_rng(6).normal(size=(5, 300)).astype(np.float32)
    source = MatrixSource(rows)
    plain, pivoted = (Span.of_gram(gram_of(source, range(5))), Span.about_pivot(gram_of(source, range(5), pivot=2), 2))
    mixing = np.random.default_rng(7).uniform(size=(3, 5))
    for one, other in ((plain, pivoted), (plain.mixed(mixing), pivoted.mixed(mixing))):
        np.testing.assert_allclose(one.gram(), other.gram(), rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(one.norms(), other.norms(), rtol=1e-4)
        np.testing.assert_allclose(one.squared_distances(), other.squared_distances(), rtol=1e-3, atol=1e-2)


def test_a_gram_matrix_summed_by_segments_is_the_same_bits_however_its_blocks_are_shared_out(monkeypatch):
    monkeypatch.setattr(ranges, "SMALLEST_SEGMENT_BLOCKS", 1)
    size = 5 * BLOCK_COLUMNS + 77
    rows = np.random.default_rng(8).normal(size=(4, size)).astype(np.float32)
    whole = gram_of(MatrixSource(rows), range(4))
    assert segment_columns(size) == BLOCK_COLUMNS
    segments = []
    for start in range(0, size, BLOCK_COLUMNS):
        accumulator = GramAccumulator(4, size)
        accumulator.add(rows[:, start : start + BLOCK_COLUMNS])
        segments.append(accumulator.total())
    assert gram.sum_segments(segments).tobytes() == whole.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_value_spoils_its_own_products_only(bad):
    rows = np.random.default_rng(9).normal(size=(5, 300)).astype(np.float32)
    clean = gram_of(MatrixSource(rows), range(5))
    rows[2, 77] = bad
    spoiled = gram_of(MatrixSource(rows), range(5))
    others = np.ix_([0, 1, 3, 4], [0, 1, 3, 4])
    assert not np.isfinite(spoiled[2, 2])
    np.testing.assert_array_equal(spoiled[others], clean[others])


def test_history_is_an_exponential_average_of_each_devices_updates():
    first, second = updates_of("honest", 5, 0, columns=100), updates_of("honest", 5, 0, columns=100, seed=8)
    aggregator = Aggregator(pipeline("mean", history=0.9))
    np.testing.assert_allclose(aggregator.aggregate(first)[0], first.mean(axis=0), rtol=1e-5, atol=1e-6)
    expected = (0.9 * first + 0.1 * second).mean(axis=0)
    np.testing.assert_allclose(aggregator.aggregate(second)[0], expected, rtol=1e-4, atol=1e-6)


def reference_step(name, state, delta):
    """Reddi et al. 2021, Algorithm 2, and FedAvgM, in float64."""
    if name == "none":
        return delta
    if name == "fedavgm":
        state["m"] = 0.9 * state.get("m", 0.0) + delta
        return state["m"]
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * delta
    v, square = state.get("v", 1e-6), delta**2
    state["v"] = {
        "fedadagrad": lambda: v + square,
        "fedyogi": lambda: v - 0.01 * square * np.sign(v - square),
        "fedadam": lambda: 0.99 * v + 0.01 * square,
    }[name]()
    return 0.1 * state["m"] / (np.sqrt(state["v"]) + 1e-3)


@pytest.mark.parametrize("name", SERVER_OPTIMISERS)
def test_a_server_optimiser_steps_as_its_paper_says(name):
    aggregator, state = Aggregator(pipeline("mean", server_optimiser=Stage(name))), {}
    for seed in range(4):
        updates = updates_of("honest", 4, 0, columns=64, seed=seed)
        expected = reference_step(name, state, updates.astype(np.float64).mean(axis=0))
        np.testing.assert_allclose(aggregator.aggregate(updates)[0], expected, rtol=2e-3, atol=1e-6)


def test_a_weighted_mean_weighs_by_claimed_samples():
    updates = updates_of("honest", 4, 0, columns=50)
    mine, decision = Aggregator(pipeline("weighted-mean")).aggregate(updates, [1, 2, 3, 4])
    np.testing.assert_allclose(mine, np.average(updates, axis=0, weights=[1, 2, 3, 4]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decision.shares, [0.1, 0.2, 0.3, 0.4])


def test_centered_clipping_moves_no_further_than_its_radius():
    updates = updates_of("huge", 10, 3, columns=100)
    rule = Stage("centered-clipping", {"absolute_radius": 0.5, "iterations": 1})
    mine, _ = Aggregator(bare(rule=rule)).aggregate(updates)
    assert np.linalg.norm(mine) <= 0.5 * 1.0001


NOISY = {"noise": Stage("gaussian", {"noise_multiplier": 2.0, "expected_cohort": 50})}


def test_noise_has_the_deviation_that_is_accounted_for():
    updates = np.zeros((5, 20_000), dtype=np.float32)
    policy = pipeline("mean", Stage("static-clipping", {"radius": 3.0}), **NOISY)
    noise, decision = Aggregator(policy).aggregate(updates, seed=b"s" * 32)
    assert decision.noise_deviation == pytest.approx(2.0 * 3.0 / 50)
    assert noise.std() == pytest.approx(decision.noise_deviation, rel=0.03)
    assert abs(noise.mean()) < 4 * decision.noise_deviation / np.sqrt(len(noise))


def test_the_sum_is_divided_by_the_public_cohort_and_not_by_who_came():
    updates = np.zeros((5, 100), dtype=np.float32)
    updates[:, 0] = 100.0
    quiet = {"noise": Stage("gaussian", {"noise_multiplier": 0.001, "expected_cohort": 50})}
    policy = pipeline("mean", Stage("static-clipping", {"radius": 3.0}), **quiet)
    mine, _ = Aggregator(policy).aggregate(updates)
    assert mine[0] == pytest.approx(5 * 3.0 / 50, rel=0.01)


def test_the_same_seed_repeats_the_noise_wherever_it_begins():
    whole = standard_normals(b"k" * 32, 0, 1000)
    np.testing.assert_array_equal(standard_normals(b"k" * 32, 300, 100), whole[300:400])
    assert not np.array_equal(standard_normals(b"l" * 32, 0, 1000), whole)


def test_noise_is_standard_normal():
    values = np.sort(standard_normals(b"k" * 32, 0, 100_000))
    assert kstest(values, "norm").pvalue > 1e-3


def test_the_radius_follows_the_quantile_of_the_norms():
    policy = pipeline("mean", Stage("quantile-clipping", {"initial_radius": 10.0, "count_noise": 2.0}), **NOISY)
    aggregator, radii = Aggregator(policy), []
    updates = np.diag(np.linspace(0.5, 1.5, 50)).astype(np.float32)
    for round_ in range(60):
        radii.append(aggregator.aggregate(updates, seed=bytes([round_]) * 32)[1].next_radius)
    assert radii[0] < 10.0
    assert radii[-1] == pytest.approx(1.0, abs=0.3)


def test_the_count_takes_its_part_of_the_noise_multiplier():
    clipping = QuantileClipping(count_noise=5.0)
    left = clipping.sum_noise_multiplier(1.0)
    assert left**-2 + (2 * 5.0) ** -2 == pytest.approx(1.0)
    assert clipping.sum_noise_multiplier(11.0) == np.inf


def test_sight_of_updates_that_cancel_out_has_no_direction():
    assert Sight(Span.of_gram(np.array([[1.0, -1.0], [-1.0, 1.0]]))).consensus_cosines([0, 1]).tolist() == [-1.0, -1.0]
