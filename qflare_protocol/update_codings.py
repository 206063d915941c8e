"""How the values of an update are written as bytes: float32, bfloat16, or eight bits with a scale for each block."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qflare_protocol import block_quantisation
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import Tensor, TensorLayout

Float32 = NDArray[np.float32]
BLOCKS = "blocks"
"""The name of the one tensor of an update in blocks."""


class Coding(ABC):
    """One way to write values; a block of the grid is always coded by itself."""

    dtype: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether the values are read as they were given."""

    @abstractmethod
    def layout(self, values: TensorLayout) -> TensorLayout:
        """Return the layout of the container for values of that (float32) layout."""

    @abstractmethod
    def coded_bytes(self, columns: int) -> int:
        """Return how many bytes that many values have."""

    @abstractmethod
    def encode(self, values: Float32) -> bytes:
        """Return the bytes of (w,) values. Raises `Refusal("invalid-tensors")` for values it cannot write."""

    @abstractmethod
    def decode(self, coded: NDArray[np.uint8], into: Float32) -> None:
        """Fill (w,) values from exactly their bytes. Raises `Refusal("invalid-tensors")`."""


@dataclass(frozen=True)
class Float32Coding(Coding):
    """Little-endian float32."""

    dtype = "F32"

    def layout(self, values: TensorLayout) -> TensorLayout:
        """Return the same layout."""
        return values

    def coded_bytes(self, columns: int) -> int:
        """Return four bytes for each."""
        return 4 * columns

    def encode(self, values: Float32) -> bytes:
        """Return the bytes as they are."""
        return values.astype("<f4", copy=False).tobytes()

    def decode(self, coded: NDArray[np.uint8], into: Float32) -> None:
        """Copy the values."""
        into[:] = coded.view("<f4")


@dataclass(frozen=True)
class Bfloat16Coding(Coding):
    """The upper half of a float32, little-endian, rounded to nearest, ties to even."""

    dtype = "BF16"
    exact = False

    def layout(self, values: TensorLayout) -> TensorLayout:
        """Return the same tensors as bfloat16."""
        return TensorLayout(tuple(Tensor(one.name, self.dtype, one.shape) for one in values.tensors))

    def coded_bytes(self, columns: int) -> int:
        """Return two bytes for each."""
        return 2 * columns

    def encode(self, values: Float32) -> bytes:
        """Return the rounded values. Raises `Refusal("invalid-tensors")` for NaN and infinity."""
        if not np.isfinite(values).all():
            raise Refusal("invalid-tensors", "The update holds NaN or infinity.")
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        return (rounded >> np.uint32(16)).astype("<u2").tobytes()

    def decode(self, coded: NDArray[np.uint8], into: Float32) -> None:
        """Fill up with zero bits."""
        into.view(np.uint32)[:] = coded.view("<u2").astype(np.uint32) << np.uint32(16)


@dataclass(frozen=True)
class Int8Blocks(Coding):
    """Blocks of whole numbers with one scale each; see `qflare_protocol.block_quantisation`.

    `block_values` is a power of two from 64 to 4096, so that no block lies across the ranges of a model.
    """

    block_values: int
    dtype = "U8"
    exact = False

    def layout(self, values: TensorLayout) -> TensorLayout:
        """Return one tensor whose rows are the blocks."""
        width = block_quantisation.SCALE_BYTES + self.block_values
        return TensorLayout((Tensor(BLOCKS, self.dtype, (self._blocks(values.size), width)),))

    def coded_bytes(self, columns: int) -> int:
        """Return the bytes of whole blocks."""
        return self._blocks(columns) * (block_quantisation.SCALE_BYTES + self.block_values)

    def encode(self, values: Float32) -> bytes:
        """Return the blocks. Raises `Refusal("invalid-tensors")` for values beyond the largest scale."""
        return block_quantisation.quantised(values, self.block_values)

    def decode(self, coded: NDArray[np.uint8], into: Float32) -> None:
        """Read the blocks. Raises `Refusal("invalid-tensors")` for what is not the one encoding of its values."""
        block_quantisation.dequantise(coded, self.block_values, into)

    def _blocks(self, columns: int) -> int:
        return -(-columns // self.block_values)
