"""Models of which updates are about some columns only: these are read out of it, and put back among the others."""

from collections.abc import Callable

import numpy as np

from enclave.core.streams import AnyRow, Float32
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.update_shape import UpdateShape


class ChosenRow:
    """The chosen columns of a model's row, which is read to its end."""

    def __init__(self, model: AnyRow, shape: UpdateShape) -> None:
        self._model, self._pieces = model, shape.pieces()
        self._left = np.empty(0, dtype=np.float32)

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        filled = 0
        while filled < len(row):
            if not len(self._left):
                self._read_piece()
            taken = min(len(row) - filled, len(self._left))
            row[filled : filled + taken] = self._left[:taken]
            self._left, filled = self._left[taken:], filled + taken

    def finish(self) -> None:
        """Return when the model has been read to its end and was what its digest says. Raises `Refusal`."""
        if len(self._left):
            raise Refusal("invalid-tensors", "The chosen columns of the model are not all read.")
        for piece in self._pieces:
            if piece.count:
                raise Refusal("invalid-tensors", "The chosen columns of the model are not all read.")
            self._model.read_into(np.empty(piece.width, dtype=np.float32))
        self._model.finish()

    def _read_piece(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise Refusal("invalid-tensors", "The model has no more chosen columns.")
        values = np.empty(piece.width, dtype=np.float32)
        self._model.read_into(values)
        self._left = values[piece.chosen]


class AmongOthers:
    """Puts new values of the chosen columns among the others of the base model; `send` takes the model in pieces."""

    def __init__(self, base: AnyRow, shape: UpdateShape, send: Callable[[Float32], None]) -> None:
        self._base, self._pieces, self._send = base, shape.pieces(), send
        self._piece = next(self._pieces, None)
        self._waiting = np.empty(0, dtype=np.float32)

    def write(self, values: Float32) -> None:
        """Take the next values of chosen columns. Raises the `Refusal` of the base model's row."""
        self._waiting = np.concatenate((self._waiting, values))
        self._advance()

    def finish(self) -> None:
        """Give out what is left of the model. Raises `Refusal("invalid-tensors")` where values are missing or over."""
        self._advance()
        if self._piece is not None or len(self._waiting):
            raise Refusal("invalid-tensors", "The new values are not as many as the chosen columns.")
        self._base.finish()

    def _advance(self) -> None:
        """Give out every piece whose values are all there, so that no more than a block of them waits."""
        while self._piece is not None and self._piece.count <= len(self._waiting):
            block = np.empty(min(self._piece.width, BLOCK_COLUMNS), dtype=np.float32)
            self._base.read_into(block)
            block[self._piece.chosen] = self._waiting[: self._piece.count]
            self._waiting = self._waiting[self._piece.count :]
            self._send(block)
            self._piece = next(self._pieces, None)
