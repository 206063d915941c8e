"""Order statistics by coordinate: the values of every column of a range of updates in ascending order.

Few rows are sorted by a network of elementwise minima and maxima, which runs along memory and sorts
all columns at once; many rows by a transpose and vectorised sorts of short rows, which is twice as
fast as a sort across rows. Both work on few enough columns to stay in a core's cache.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MOST_ROWS_BY_NETWORK = 16
CACHED_VALUES = 1 << 17

Float32 = NDArray[np.float32]


def middle_mean(block: Float32, trimmed: int) -> Float32:
    """Return the (w,) mean of each column of an (m, w) block without its `trimmed` largest and smallest values."""
    count, width = block.shape
    weights = np.full(count - 2 * trimmed, 1.0 / (count - 2 * trimmed), dtype=np.float32)
    mean = np.empty(width, dtype=np.float32)
    for columns in _cached(block):
        ordered = sorted_rows(block[:, columns], trimmed)
        mean[columns] = weights @ ordered[trimmed : count - trimmed]
    return mean


def mean_around_median(block: Float32, kept: int) -> Float32:
    """Return the (w,) mean of the `kept` values of each column of an (m, w) block nearest to its median."""
    mean = np.empty(block.shape[1], dtype=np.float32)
    for columns in _cached(block):
        mean[columns] = _mean_around_median(sorted_rows(block[:, columns]), kept)
    return mean


def sorted_rows(block: Float32, trimmed: int = 0) -> Float32:
    """Return the (m, w) block with every column in ascending order.

    Only the rows without the first and the last `trimmed` are certain to hold their values.
    """
    if len(block) > MOST_ROWS_BY_NETWORK:
        columns = np.ascontiguousarray(block.T)
        columns.sort(axis=1)
        return columns.T
    rows = [row.copy() for row in block]
    spare = np.empty_like(rows[0])
    for low, high in comparators(len(block), trimmed):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return np.stack(rows)


@lru_cache(maxsize=256)
def comparators(count: int, trimmed: int) -> tuple[tuple[int, int], ...]:
    """Return the comparators of Batcher's merge exchange for that many rows (Knuth, 5.2.2, Algorithm M).

    Those that only the first and the last `trimmed` rows depend on are left out.
    """
    needed, live = [], set(range(trimmed, count - trimmed))
    for low, high in reversed(_merge_exchange(count)):
        if low in live or high in live:
            needed.append((low, high))
            live |= {low, high}
    return tuple(reversed(needed))


def _merge_exchange(count: int) -> list[tuple[int, int]]:
    found = []
    half = 1
    while half < count:
        distance = half
        while distance >= 1:
            for first in range(distance % half, count - distance, 2 * distance):
                for low in range(first, min(first + distance, count - distance)):
                    if low // (2 * half) == (low + distance) // (2 * half):
                        found.append((low, low + distance))
            distance //= 2
        half *= 2
    return found


def _cached(block: Float32) -> list[slice]:
    """Return the columns in runs of which a core's cache holds all rows."""
    count, width = block.shape
    columns = max(256, CACHED_VALUES // count)
    return [slice(start, min(start + columns, width)) for start in range(0, width, columns)]


def _mean_around_median(ordered: Float32, kept: int) -> Float32:
    """The nearest values stand side by side in a sorted column: what is dropped is always the farther end."""
    count, width = ordered.shape
    median = ((ordered[(count - 1) // 2] + ordered[count // 2]) * np.float32(0.5))[None, :]
    first, last = np.zeros((1, width), dtype=np.intp), np.full((1, width), count - 1)
    for _ in range(count - kept):
        below = median - np.take_along_axis(ordered, first, axis=0)
        above = np.take_along_axis(ordered, last, axis=0) - median
        drop_first = below > above
        first += drop_first
        last -= ~drop_first
    sums = np.zeros((count + 1, width))
    np.cumsum(ordered, axis=0, dtype=np.float64, out=sums[1:])
    total = np.take_along_axis(sums, last + 1, axis=0) - np.take_along_axis(sums, first, axis=0)
    mean: Float32 = (total[0] / kept).astype(np.float32)
    return mean
