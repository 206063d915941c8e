"""The weighted mean by ranges of columns, in float64 and in a fixed order of additions.

Additions run update by update in order of device id, elementwise, so that every processor gives the
same bits; a matrix product would leave the order to BLAS.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qflare_protocol.errors import Refusal

MAX_COLUMNS = 1 << 15
MIN_COLUMNS = 1 << 10
MAX_BLOCK_BYTES = 1 << 26

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def columns_per_range(updates: int) -> int:
    """Return how many columns are read at once: a power of two, so that n rows of float32 and float64 fit in 64 MiB."""
    columns = MAX_COLUMNS
    while columns > MIN_COLUMNS and updates * columns * 12 > MAX_BLOCK_BYTES:
        columns //= 2
    return columns


def gram_of(block: Float32) -> Float64:
    """Return the n×n products of the rows of one range, in float64.

    Squares of finite float32 values cannot overflow there, so a diagonal entry is finite exactly
    when its row is: the finite check costs nothing more.
    """
    rows = block.astype(np.float64)
    with np.errstate(invalid="ignore"):
        products: Float64 = rows @ rows.T
    return products


def sample_weights(sample_counts: Sequence[int]) -> list[float]:
    """Return the counts over their total."""
    total = sum(sample_counts)
    return [count / total for count in sample_counts]


def add_weighted(base: Float32, rows: Sequence[Float32], weights: Sequence[float]) -> Float32:
    """Return base + Σ wᵢ rowᵢ for one range, computed in float64.

    Raises `Refusal("invalid-tensors")` when a weight of the new model does not fit float32.
    """
    total = base.astype(np.float64)
    for row, weight in zip(rows, weights, strict=True):
        total += weight * row.astype(np.float64)
    with np.errstate(over="ignore"):
        model = total.astype(np.float32)
    if not np.isfinite(model).all():
        raise Refusal("invalid-tensors", "The new model has weights that are not finite float32 numbers.")
    return model
