"""The blocks of an update, of a trained and a base model that lie in memory, without a copy of either."""

from collections.abc import Iterator, Mapping

import numpy as np

from edge_client.rounding_rest import RoundingRest
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import Float32Array
from qflare_protocol.update_shape import UpdateShape

Tensors = Mapping[str, Float32Array]


def coded_blocks(
    shape: UpdateShape, base: Tensors, trained: Tensors, rest: RoundingRest | None = None
) -> Iterator[bytes]:
    """Yield the update in blocks of the grid, each as its form writes it; `rest` is added first and takes what is lost.

    Raises `Refusal("invalid-tensors")` for values that the form cannot write.
    """
    for values in _blocks(shape, base, trained):
        if rest is None:
            yield shape.form.coding.encode(values)
        else:
            yield rest.coded(values, shape.form.coding)


def _blocks(shape: UpdateShape, base: Tensors, trained: Tensors) -> Iterator[Float32Array]:
    """Yield the columns that the update is about by blocks of the grid; an array that was given may be given again."""
    block, filled = np.empty(BLOCK_COLUMNS, dtype=np.float32), 0
    for values in _chosen(shape, base, trained):
        taken = 0
        while taken < len(values):
            width = min(len(values) - taken, BLOCK_COLUMNS - filled)
            block[filled : filled + width] = values[taken : taken + width]
            taken, filled = taken + width, filled + width
            if filled == BLOCK_COLUMNS:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def _chosen(shape: UpdateShape, base: Tensors, trained: Tensors) -> Iterator[Float32Array]:
    pieces = shape.pieces()
    for tensor in shape.model.tensors:
        old, new = base[tensor.name].reshape(-1), trained[tensor.name].reshape(-1)
        done = 0
        while done < tensor.size:
            piece = next(pieces)
            here = slice(done, done + piece.width)
            if piece.count:
                values = new[here] if shape.form.absolute else new[here] - old[here]
                yield values[piece.chosen]
            done += piece.width
