"""The first pass: all updates read in lock step, range by range, into their Gram matrix."""

from collections.abc import Callable, Sequence

import numpy as np

from enclave.core.combine import Float64, columns_per_range, gram_of
from enclave.core.inputs import Candidate
from enclave.core.streams import Row
from qflare_protocol.errors import Refusal


class FirstPass:
    """Reads every candidate once. Afterwards `refusals` says which failed an input check, by index.

    A failing row is zeroed and no longer read; its products are cut out of the Gram matrix at the
    end, so the products of the others are what they would have been without it.
    """

    def __init__(self, candidates: Sequence[Candidate], open_row: Callable[[Candidate], Row], size: int) -> None:
        self._candidates = candidates
        self._open_row = open_row
        self._size = size
        self._rows: list[Row | None] = []
        self._gram = np.zeros((len(candidates), len(candidates)))
        self.refusals: dict[int, Refusal] = {}

    @property
    def survivors(self) -> list[int]:
        """The indices of the candidates that have passed so far."""
        return [index for index in range(len(self._candidates)) if index not in self.refusals]

    def run(self) -> Float64:
        """Return the Gram matrix of the survivors, in their order."""
        self._rows = [None] * len(self._candidates)
        self._each(self._open)
        columns = columns_per_range(len(self._candidates))
        block = np.zeros((len(self._candidates), columns), dtype=np.float32)
        for start in range(0, self._size, columns):
            self._add_range(block, min(columns, self._size - start))
        self._each(self._finish)
        kept = self.survivors
        return self._gram[np.ix_(kept, kept)]

    def _add_range(self, block: np.ndarray[tuple[int, int], np.dtype[np.float32]], width: int) -> None:
        self._each(lambda index: self._row(index).read_into(block[index, :width]))
        block[list(self.refusals)] = 0.0
        self._gram += gram_of(block[:, :width])

    def _open(self, index: int) -> None:
        self._rows[index] = self._open_row(self._candidates[index])

    def _finish(self, index: int) -> None:
        self._row(index).finish()
        if not np.isfinite(self._gram[index, index]):
            raise Refusal("invalid-tensors", "The update holds NaN or infinity.")

    def _row(self, index: int) -> Row:
        row = self._rows[index]
        assert row is not None  # noqa: S101 - every survivor was opened
        return row

    def _each(self, action: Callable[[int], None]) -> None:
        for index in self.survivors:
            try:
                action(index)
            except Refusal as refusal:
                self.refusals[index] = refusal
