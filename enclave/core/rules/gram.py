"""The Gram matrix of all rows, accumulated block by block, and whether it has to be taken from closer by.

Blocks lie on one grid whoever reads them (`qflare_protocol.ranges`), and are summed by segments of the
grid in a fixed order: floating-point addition is not associative, and a round that is spread over many
workers must come to the same bits as one.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.span import Matrix, Span
from qflare_protocol.ranges import segment_columns

CLOSE = 1e-3
"""Updates whose median squared distance is below this part of their median square are looked at from one of them."""

Float32 = NDArray[np.float32]


class BlockSource(Protocol):
    """Rows that are read from front to back by ranges of `BLOCK_COLUMNS`, as often as asked."""

    size: int

    def blocks(self, rows: Sequence[int]) -> Iterator[Float32]:
        """Yield the (k, w) ranges of these rows one after another; a range is valid until the next one is asked for."""


def gram_of(source: BlockSource, rows: Sequence[int], *, pivot: int | None = None) -> Matrix:
    """Return the (k, k) products of the rows in float64; with a pivot, those of the differences from that row.

    Products within one range are float32. A row that is not finite, or whose square does not fit
    float32, spoils only its own products.
    """
    accumulator = GramAccumulator(len(rows), source.size)
    for block in source.blocks(rows):
        accumulator.add(block if pivot is None else about(block, pivot))
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

    @property
    def segments(self) -> list[Matrix]:
        """The products of each segment so far, in order."""
        return self._segments

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

    `gram` is the Gram matrix of the updates and then the references. Where `pivot_of` names an update,
    the source is read once more, relative to it.
    """
    pivot = pivot_of(updates, gram)
    if pivot is None:
        return Span.of_gram(gram)
    return Span.about_pivot(gram_of(source, range(updates + references), pivot=pivot), pivot)


def pivot_of(updates: int, gram: Matrix) -> int | None:
    """Return the update in the others' midst where they lie so close together that rounding would decide."""
    distances = Span.of_gram(gram).squared_distances()[:updates, :updates]
    squares = np.diag(gram)[:updates]
    between = distances[~np.eye(updates, dtype=bool)]
    if len(between) == 0 or float(np.median(between)) > CLOSE * float(np.median(squares)):
        return None
    return int(np.argmin(np.median(distances, axis=1)))


def about(block: Float32, pivot: int) -> Float32:
    """Return the differences of the rows from row `pivot`, itself standing in its own place."""
    differences: Float32 = block - block[pivot]
    differences[pivot] = block[pivot]
    return differences
