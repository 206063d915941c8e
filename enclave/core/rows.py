"""The rows of a round, read range by range in lock step; no more than one range of each is ever held."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from enclave.core.rules.gram import BLOCK_COLUMNS, GramAccumulator
from enclave.core.rules.span import Matrix
from enclave.core.streams import AnyRow, Float32, OpenRow
from qflare_protocol.errors import Refusal

NOT_FINITE = "The update holds NaN, infinity, or values whose squares float32 cannot hold."


class SealedRows:
    """Rows that are opened anew for every reading. It is a `BlockSource` of the rules."""

    def __init__(self, openers: Sequence[OpenRow], size: int) -> None:
        self._openers = openers
        self.size = size

    def __len__(self) -> int:
        return len(self._openers)

    def blocks(self, rows: Sequence[int]) -> Iterator[Float32]:
        """Yield the ranges of these rows; raises the `Refusal` of the first that cannot be read."""
        opened = [self._openers[row]() for row in rows]
        block = np.empty((len(opened), min(BLOCK_COLUMNS, self.size)), dtype=np.float32)
        for start in range(0, self.size, BLOCK_COLUMNS):
            width = min(BLOCK_COLUMNS, self.size - start)
            for index, row in enumerate(opened):
                row.read_into(block[index, :width])
            yield block[:, :width]
        for row in opened:
            row.finish()

    def taken(self, rows: Sequence[int]) -> "SealedRows":
        """Return some of the rows."""
        return SealedRows([self._openers[row] for row in rows], self.size)


class FirstReading:
    """Reads every row once. Afterwards `refusals` says which failed an input check, by index.

    A failing row is zeroed and no longer read; its products are cut out at the end, so those of the
    others are what they would have been without it.
    """

    def __init__(self, openers: Sequence[OpenRow], size: int, *, with_gram: bool) -> None:
        self._openers = openers
        self._size = size
        self._with_gram = with_gram
        self._rows: dict[int, AnyRow] = {}
        self.refusals: dict[int, Refusal] = {}

    @property
    def survivors(self) -> list[int]:
        """The indices of the rows that have passed so far."""
        return [index for index in range(len(self._openers)) if index not in self.refusals]

    def products(self) -> Matrix:
        """Return the survivors' Gram matrix, or only its diagonal where the pipeline needs no more."""
        self._each(self._open)
        accumulator = GramAccumulator(len(self._openers), self._size, only_squares=not self._with_gram)
        block = np.zeros((len(self._openers), min(BLOCK_COLUMNS, self._size)), dtype=np.float32)
        for start in range(0, self._size, BLOCK_COLUMNS):
            width = min(BLOCK_COLUMNS, self._size - start)
            self._each(lambda index, width=width: self._rows[index].read_into(block[index, :width]))  # type: ignore[misc]
            block[list(self.refusals)] = 0.0
            accumulator.add(block[:, :width])
        products = accumulator.total()
        self._each(lambda index: self._finish(index, float(products[index, index])))
        self._rows.clear()
        kept = self.survivors
        return products[np.ix_(kept, kept)]

    def _open(self, index: int) -> None:
        self._rows[index] = self._openers[index]()

    def _finish(self, index: int, square: float) -> None:
        self._rows[index].finish()
        if not np.isfinite(square):
            raise Refusal("invalid-tensors", NOT_FINITE)

    def _each(self, action: Callable[[int], None]) -> None:
        for index in self.survivors:
            try:
                action(index)
            except Refusal as refusal:
                self.refusals[index] = refusal
