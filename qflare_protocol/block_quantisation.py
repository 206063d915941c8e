"""Eight bits a value: blocks of whole numbers from -127 to 127, each with one float32 scale.

A block is its scale (4 bytes, little-endian) and then its values, one byte each; the last block of an update is filled
up with zeros. There is one encoding of what a block says: its largest magnitude is 127, or all of it is zero, scale
included. A scale is bounded, so that no value of an update is beyond what the square of a float32 holds; this is
checked before anything is computed of the values (Dettmers, Lewis, Shleifer, Zettlemoyer: 8-bit Optimizers via
Block-wise Quantization, ICLR 2022, for the blocks).
"""

import numpy as np
from numpy.typing import NDArray

from qflare_protocol.errors import Refusal

SCALE_BYTES = 4
LARGEST_STEP = 127
LARGEST_SCALE = np.float32(2.0**40)
SMALLEST_SCALE = np.finfo(np.float32).tiny
"""The smallest normal float32: with a smaller scale the values would be rounded away anyhow."""

Float32 = NDArray[np.float32]


def quantised(values: Float32, block_values: int) -> bytes:
    """Return the blocks of (w,) values, the last one filled up with zeros.

    Raises `Refusal("invalid-tensors")` for values that are not finite or beyond the largest scale.
    """
    blocks = -(-len(values) // block_values)
    padded = np.zeros((blocks, block_values), dtype=np.float32)
    padded.reshape(-1)[: len(values)] = values
    largest = np.abs(padded).max(axis=1)
    scales = (largest / np.float32(LARGEST_STEP)).astype("<f4")
    if not (scales <= LARGEST_SCALE).all():  # false for a NaN too
        raise Refusal("invalid-tensors", "The update holds values that are not finite or too large for its form.")
    scales[scales < SMALLEST_SCALE] = 0.0
    divisors = np.where(scales > 0, scales, np.float32(np.inf))[:, None]
    steps = np.rint(padded / divisors).astype(np.int8)
    return np.concatenate((scales.view(np.uint8).reshape(blocks, SCALE_BYTES), steps.view(np.uint8)), axis=1).tobytes()


def dequantise(coded: NDArray[np.uint8], block_values: int, into: Float32) -> None:
    """Fill (w,) values from whole blocks of uint8.

    Raises `Refusal("invalid-tensors")` for a scale out of bounds and for every other encoding than `quantised` makes.
    """
    rows = coded.reshape(-1, SCALE_BYTES + block_values)
    scales = rows[:, :SCALE_BYTES].copy().view("<f4")[:, 0].astype(np.float32)
    steps = rows[:, SCALE_BYTES:].view(np.int8)
    _check_scales(scales, rows[:, :SCALE_BYTES])
    largest = np.maximum(steps.max(axis=1), -steps.min(axis=1).astype(np.int16))
    if not np.array_equal(largest, np.where(scales > 0, LARGEST_STEP, 0)):
        raise Refusal("invalid-tensors", "A block of the update is not in its one encoding.")
    if steps.reshape(-1)[len(into) :].any():
        raise Refusal("invalid-tensors", "The update's last block is not filled up with zeros.")
    into[:] = (steps * scales[:, None]).reshape(-1)[: len(into)]


def _check_scales(scales: Float32, coded: NDArray[np.uint8]) -> None:
    """Refuse what is no scale: NaN, infinity, negative or too large, too small, a zero with a sign."""
    zero = ~coded.any(axis=1)
    if not (zero | ((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE))).all():
        raise Refusal("invalid-tensors", "A scale of the update is not a number in its bounds.")
