import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.core.combine import (
    MAX_BLOCK_BYTES,
    MAX_COLUMNS,
    MIN_COLUMNS,
    add_weighted,
    columns_per_range,
    gram_of,
    sample_weights,
)
from qflare_protocol.errors import Refusal

generator = np.random.default_rng(4)


@given(st.integers(1, 100_000))
@settings(max_examples=100, deadline=None)
def test_a_range_is_a_power_of_two_and_its_block_bounded(updates):
    columns = columns_per_range(updates)
    assert columns & (columns - 1) == 0
    assert MIN_COLUMNS <= columns <= MAX_COLUMNS
    assert columns == MIN_COLUMNS or updates * columns * 12 <= MAX_BLOCK_BYTES


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50))
@settings(deadline=None)
def test_weights_are_shares_of_the_total(counts):
    assert sum(sample_weights(counts)) == pytest.approx(1.0)


def test_the_gram_matrix_is_that_of_float64_products():
    block = generator.normal(size=(7, 1000)).astype(np.float32)
    np.testing.assert_allclose(gram_of(block), block.astype(np.float64) @ block.astype(np.float64).T, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_shows_on_its_own_diagonal_and_on_no_other(bad):
    block = generator.normal(size=(5, 300)).astype(np.float32)
    clean = gram_of(block)
    block[2, 77] = bad
    gram = gram_of(block)
    assert not np.isfinite(gram[2, 2])
    others = np.ix_([0, 1, 3, 4], [0, 1, 3, 4])
    np.testing.assert_array_equal(gram[others], clean[others])


def test_the_largest_float32_values_stay_finite():
    assert np.isfinite(gram_of(np.full((3, MAX_COLUMNS), np.finfo(np.float32).max))).all()


def test_the_weighted_mean_is_that_of_the_whole_array():
    base = generator.normal(size=500).astype(np.float32)
    rows = generator.normal(size=(6, 500)).astype(np.float32)
    weights = sample_weights([5, 10, 1, 80, 3, 1])
    mean = np.average(rows.astype(np.float64), axis=0, weights=weights)
    expected = (base.astype(np.float64) + mean).astype(np.float32)
    np.testing.assert_allclose(add_weighted(base, list(rows), weights), expected, rtol=1e-6, atol=1e-7)


def test_the_same_rows_give_the_same_bits_wherever_they_lie_in_memory():
    base = generator.normal(size=1001).astype(np.float32)
    rows = generator.normal(size=(6, 1001)).astype(np.float32)
    shifted = np.empty(6 * 1001 + 1, dtype=np.float32)[1:].reshape(6, 1001)
    shifted[:] = rows
    weights = sample_weights([1, 2, 3, 4, 5, 6])
    assert add_weighted(base, list(rows), weights).tobytes() == add_weighted(base, list(shifted), weights).tobytes()


def test_a_new_weight_that_does_not_fit_float32_is_refused():
    largest = np.full(3, np.finfo(np.float32).max, dtype=np.float32)
    with pytest.raises(Refusal) as caught:
        add_weighted(largest, [largest], [1.0])
    assert caught.value.code == "invalid-tensors"
