"""The rows of a round, read block by block in lock step; no more than one block of each is ever held."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from enclave.core.rules.gram import GramAccumulator
from enclave.core.rules.span import Matrix
from enclave.core.streams import AnyRow, Float32, OpenRow
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS, Columns

NOT_FINITE = "The update holds NaN, infinity, or values whose squares float32 cannot hold."


class SealedRows:
    """Rows of the same columns that are opened anew for every reading."""

    def __init__(self, openers: Sequence[OpenRow], columns: Columns) -> None:
        self._openers = openers
        self._width = columns.width

    def __len__(self) -> int:
        return len(self._openers)

    def blocks(self, rows: Sequence[int]) -> Iterator[Float32]:
        """Yield the blocks of these rows; raises the `Refusal` of the first that cannot be read."""
        opened = [self._openers[row]() for row in rows]
        block = np.empty((len(opened), min(BLOCK_COLUMNS, self._width)), dtype=np.float32)
        for start in range(0, self._width, BLOCK_COLUMNS):
            width = min(BLOCK_COLUMNS, self._width - start)
            for index, row in enumerate(opened):
                row.read_into(block[index, :width])
            yield block[:, :width]
        for row in opened:
            row.finish()


class FirstReading:
    """Reads every row once. Afterwards `refusals` says which failed an input check, by index.

    A failing row is zeroed and no longer read. Whoever takes the products leaves its own out: those of
    the others are what they would have been without it. `take_block` is given every block, as long as
    no row has failed.
    """

    def __init__(
        self,
        openers: Sequence[OpenRow],
        columns: Columns,
        *,
        with_gram: bool,
        take_block: Callable[[Float32], None] | None = None,
    ) -> None:
        self._openers = openers
        self._columns = columns
        self._with_gram = with_gram
        self._take_block = take_block
        self._rows: dict[int, AnyRow] = {}
        self.refusals: dict[int, Refusal] = {}

    def segments(self) -> list[Matrix]:
        """Return the Gram matrix of each segment, or only its diagonal where the pipeline needs no more."""
        self._each(self._open)
        accumulator = GramAccumulator(len(self._openers), self._columns.size, only_squares=not self._with_gram)
        block = np.zeros((len(self._openers), min(BLOCK_COLUMNS, self._columns.width)), dtype=np.float32)
        for start in range(0, self._columns.width, BLOCK_COLUMNS):
            width = min(BLOCK_COLUMNS, self._columns.width - start)
            self._each(lambda index, width=width: self._rows[index].read_into(block[index, :width]))  # type: ignore[misc]
            block[list(self.refusals)] = 0.0
            accumulator.add(block[:, :width])
            if self._take_block is not None and not self.refusals:
                self._take_block(block[:, :width])
        squares = np.diag(accumulator.total())
        self._each(lambda index: self._finish(index, float(squares[index])))
        self._rows.clear()
        return accumulator.segments

    def _open(self, index: int) -> None:
        self._rows[index] = self._openers[index]()

    def _finish(self, index: int, square: float) -> None:
        self._rows[index].finish()
        if not np.isfinite(square):
            raise Refusal("invalid-tensors", NOT_FINITE)

    def _each(self, action: Callable[[int], None]) -> None:
        for index in range(len(self._openers)):
            if index in self.refusals:
                continue
            try:
                action(index)
            except Refusal as refusal:
                self.refusals[index] = refusal
