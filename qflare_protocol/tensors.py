"""A strict reading of the safetensors container, without torch and without trust.

Format: header length (8 bytes, little-endian) || JSON header || data. Stricter than the format
asks: float32 only (a coded update also bfloat16 or bytes, where its form says so), hard limits before
anything is allocated, no duplicate keys, data without holes or overlap. Two containers belong together
only when their `TensorLayout`s are equal, exact shapes included, so that nothing is ever broadcast.
"""

import json
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from qflare_protocol.errors import Refusal

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
MAX_NAME_BYTES = 256
MAX_DATA_BYTES = 1 << 36
MAX_METADATA_ENTRIES = 16
MAX_METADATA_BYTES = 1024
LENGTH_BYTES = 8
MODEL_DIGEST_BYTES = 32

_METADATA = "__metadata__"
_ITEM_BYTES = {"F32": 4, "BF16": 2, "U8": 1}
FLOAT32_ONLY = frozenset({"F32"})

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Tensor:
    """One tensor's name, dtype ("F32"; in coded updates also "BF16" or "U8") and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def data_bytes(self) -> int:
        """The number of data bytes."""
        return self.size * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorLayout:
    """The tensors of a container in the order of their data."""

    tensors: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """The number of elements of all tensors: the columns of an update."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def data_bytes(self) -> int:
        """The number of data bytes of all tensors."""
        return sum(tensor.data_bytes for tensor in self.tensors)

    @property
    def container_bytes(self) -> int:
        """The exact size of a container that `encode_header` begins."""
        return len(encode_header(self)) + self.data_bytes


@dataclass(frozen=True)
class Header:
    """A parsed header: the layout, and where the data begins in bytes."""

    layout: TensorLayout
    data_offset: int


def model_digest(data: bytes) -> bytes:
    """Return the 32-byte BLAKE3 digest by which a model or a sealed update is named."""
    return blake3.blake3(data).digest()


def header_bytes(prefix: bytes) -> int:
    """Return the length of the JSON header that the first 8 bytes announce.

    Raises `Refusal("invalid-tensors")` outside 2 bytes to 1 MiB, before anything is read.
    """
    if len(prefix) < LENGTH_BYTES:
        raise _invalid(f"A safetensors container begins with {LENGTH_BYTES} bytes of header length.")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise _invalid(f"The safetensors header must have between 2 and {MAX_HEADER_BYTES} bytes.")
    return length


def parse_header(data: bytes, *, dtypes: Set[str] = FLOAT32_ONLY) -> Header:
    """Return the layout and data offset of a container, or of its first bytes that hold the whole header.

    `dtypes` are those that its tensors may have, out of "F32", "BF16" and "U8". Raises
    `Refusal("invalid-tensors")`.
    """
    end = LENGTH_BYTES + header_bytes(data)
    if len(data) < end:
        raise _invalid("The safetensors header is cut off.")
    entries = _json_object(data[LENGTH_BYTES:end])
    _check_metadata(entries.pop(_METADATA, {}))
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise _invalid(f"A container holds between 1 and {MAX_TENSORS} tensors.")
    return Header(_layout(entries, dtypes), end)


def encode_header(layout: TensorLayout) -> bytes:
    """Return the bytes before the data: sorted as the layout, padded with spaces to 8 bytes."""
    entries, begin = {}, 0
    for tensor in layout.tensors:
        end = begin + tensor.data_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def layout_of(tensors: Mapping[str, Float32Array]) -> TensorLayout:
    """Return the layout of arrays sorted by name. Raises `Refusal("invalid-tensors")` for other dtypes."""
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise _invalid(f"The tensor {name!r} is {array.dtype}; only float32 is accepted.")
    return TensorLayout(tuple(Tensor(name, "F32", tensors[name].shape) for name in sorted(tensors)))


def encode_tensors(tensors: Mapping[str, Float32Array]) -> bytes:
    """Return the container of float32 arrays; the same arrays always give the same bytes.

    Raises `Refusal("invalid-tensors")` for what `decode_tensors` would refuse.
    """
    layout = layout_of(tensors)
    header = encode_header(layout)
    parse_header(header)
    arrays = (np.ascontiguousarray(tensors[tensor.name], dtype="<f4") for tensor in layout.tensors)
    return header + b"".join(array.tobytes() for array in arrays)


def decode_tensors(data: bytes, *, expected: TensorLayout | None = None) -> dict[str, Float32Array]:
    """Return the arrays (read-only views of `data`) by name.

    Raises `Refusal("invalid-tensors")` for anything but an exact container, and for another layout
    than the expected one.
    """
    header = parse_header(data)
    if len(data) != header.data_offset + header.layout.data_bytes:
        raise _invalid("The container's size is not what its header says.")
    if expected is not None:
        require_layout(header.layout, expected)
    arrays, offset = {}, header.data_offset
    for tensor in header.layout.tensors:
        flat = np.frombuffer(data, dtype="<f4", count=tensor.size, offset=offset)
        arrays[tensor.name] = flat.reshape(tensor.shape)
        offset += tensor.data_bytes
    return arrays


def require_layout(layout: TensorLayout, expected: TensorLayout) -> None:
    """Return when both layouts are the same. Raises `Refusal("invalid-tensors")` naming the first difference."""
    for ours, theirs in zip(expected.tensors, layout.tensors, strict=False):
        if ours != theirs:
            raise _invalid(
                f"Expected the tensor {ours.name!r} {ours.dtype} {list(ours.shape)}, "
                f"got {theirs.name!r} {theirs.dtype} {list(theirs.shape)}."
            )
    if len(layout.tensors) != len(expected.tensors):
        raise _invalid(f"Expected {len(expected.tensors)} tensors, got {len(layout.tensors)}.")


def _json_object(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _invalid("The safetensors header must begin with a brace.")
    try:
        entries: dict[str, Any] = json.loads(
            text.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _invalid("The safetensors header is not valid JSON.") from error
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _invalid("The safetensors header names a member twice.")
    return members


def _no_constant(name: str) -> Any:
    raise _invalid(f"The safetensors header holds {name}, which is not JSON.")


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or len(metadata) > MAX_METADATA_ENTRIES:
        raise _invalid(f"__metadata__ must be an object of at most {MAX_METADATA_ENTRIES} texts.")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) + len(value) > MAX_METADATA_BYTES:
            raise _invalid(f"__metadata__ holds short texts only ({MAX_METADATA_BYTES} characters).")


def _layout(entries: dict[str, Any], dtypes: Set[str]) -> TensorLayout:
    read = (_entry(name, entry, dtypes) for name, entry in entries.items())
    placed = sorted(read, key=lambda item: (item[0], item[1].name))
    position = 0
    for begin, tensor in placed:
        if begin != position:
            raise _invalid(f"The data of {tensor.name!r} leaves a hole or overlaps.")
        position += tensor.data_bytes
    return TensorLayout(tuple(tensor for _, tensor in placed))


def _entry(name: str, entry: object, dtypes: Set[str]) -> tuple[int, Tensor]:
    if not name or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        raise _invalid(f"A tensor name is 1 to {MAX_NAME_BYTES} bytes of printable text.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _invalid(f"The entry of {name!r} must hold dtype, shape and data_offsets.")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise _invalid(f"The tensor {name!r} is not of the type {' or '.join(sorted(dtypes))}.")
    tensor = Tensor(name, dtype, _naturals(name, entry["shape"], MAX_DIMENSIONS))
    offsets = _naturals(name, entry["data_offsets"], 2)
    if len(offsets) != 2 or offsets[1] - offsets[0] != tensor.data_bytes:
        raise _invalid(f"The data_offsets of {name!r} do not fit its shape.")
    return offsets[0], tensor


def _naturals(name: str, values: object, maximum_count: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > maximum_count:
        raise _invalid(f"The entry of {name!r} holds a list that is too long, or none.")
    # Offsets are bounded too, and the data has no holes, so this bounds the container as a whole.
    if not all(type(value) is int and 0 <= value <= MAX_DATA_BYTES for value in values):
        raise _invalid(f"The entry of {name!r} holds a number that is not a whole number in range.")
    return tuple(values)


def _invalid(detail: str) -> Refusal:
    return Refusal("invalid-tensors", detail)
