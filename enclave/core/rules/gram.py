"""The Gram matrix of all rows, accumulated range by range, and the decision that is made from it.

Ranges lie on one grid of `BLOCK_COLUMNS` whoever reads them, and are summed by segments of the grid
in a fixed order: floating-point addition is not associative, and a round that is spread over many
workers must come to the same bits as one.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.span import Matrix, Span

BLOCK_COLUMNS = 1 << 14
MAX_SEGMENTS = 16
SMALLEST_SEGMENT_BLOCKS = 16
CLOSE = 1e-3
"""Updates whose median squared distance is below this part of their median square are looked at from one of them."""

Float32 = NDArray[np.float32]


class BlockSource(Protocol):
    """Rows that are read from front to back by ranges of `BLOCK_COLUMNS`, as often as asked."""

    size: int

    def blocks(self, rows: Sequence[int]) -> Iterator[Float32]:
        """Yield the (k, w) ranges of these rows one after another; a range is valid until the next one is asked for."""


def segment_columns(size: int) -> int:
    """Return how many columns a segment of a model of that size has: a multiple of the grid, 16 segments at most."""
    blocks = -(-size // BLOCK_COLUMNS)
    return max(SMALLEST_SEGMENT_BLOCKS, -(-blocks // MAX_SEGMENTS)) * BLOCK_COLUMNS


def gram_of(source: BlockSource, rows: Sequence[int], *, pivot: int | None = None) -> Matrix:
    """Return the (k, k) products of the rows in float64; with a pivot, those of the differences from that row.

    Products within one range are float32. A row that is not finite, or whose square does not fit
    float32, spoils only its own products.
    """
    accumulator = GramAccumulator(len(rows), source.size)
    for block in source.blocks(rows):
        accumulator.add(block if pivot is None else _about(block, pivot))
    return accumulator.total()


class GramAccumulator:
    """Sums the products of ranges as they come; of their squares alone, where the diagonal is all that is needed."""

    def __init__(self, rows: int, size: int, *, only_squares: bool = False) -> None:
        self._only_squares = only_squares
        self._segment_columns = segment_columns(size)
        self._segments: list[Matrix] = [np.zeros((rows, rows))]
        self._columns = 0

    def add(self, block: Float32) -> None:
        """Add the products of the next range."""
        if self._columns == self._segment_columns:
            self._segments.append(np.zeros_like(self._segments[0]))
            self._columns = 0
        with np.errstate(over="ignore", invalid="ignore"):
            if self._only_squares:
                np.einsum("ii->i", self._segments[-1])[:] += [row @ row for row in block]
            else:
                self._segments[-1] += block @ block.T
        self._columns += block.shape[1]

    def total(self) -> Matrix:
        """Return the sum over all segments, in their order."""
        return sum_segments(self._segments)


def sum_segments(segments: Sequence[Matrix]) -> Matrix:
    """Return the sum of the segments' products, first to last."""
    total = segments[0].copy()
    for segment in segments[1:]:
        total += segment
    return total


def look(source: BlockSource, updates: int, references: int, gram: Matrix) -> Span:
    """Return the rows as a span whose distances are as precise as decisions need.

    `gram` is the Gram matrix of the updates and then the references. Where the updates lie so close
    together that rounding would decide, the source is read once more, relative to the update in
    their midst.
    """
    span = Span.of_gram(gram)
    distances = span.squared_distances()[:updates, :updates]
    squares = np.diag(gram)[:updates]
    between = distances[~np.eye(updates, dtype=bool)]
    if len(between) == 0 or float(np.median(between)) > CLOSE * float(np.median(squares)):
        return span
    pivot = int(np.argmin(np.median(distances, axis=1)))
    return Span.about_pivot(gram_of(source, range(updates + references), pivot=pivot), pivot)


def _about(block: Float32, pivot: int) -> Float32:
    differences: Float32 = block - block[pivot]
    differences[pivot] = block[pivot]
    return differences
