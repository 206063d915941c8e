"""Models as files: written tensor by tensor and read as maps of the file, so that memory holds no second copy."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import (
    LENGTH_BYTES,
    Float32Array,
    encode_header,
    header_bytes,
    layout_of,
    parse_header,
)


def write_tensor_file(path: Path, tensors: Mapping[str, Float32Array]) -> None:
    """Write the safetensors container of float32 arrays durably, for its owner alone.

    Raises `Refusal("invalid-tensors")` for other dtypes and for what `map_tensor_file` would refuse.
    """
    layout = layout_of(tensors)
    header = encode_header(layout)
    parse_header(header)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(header)
        for tensor in layout.tensors:
            file.write(np.ascontiguousarray(tensors[tensor.name], dtype="<f4").data)
        file.flush()
        os.fsync(file.fileno())


def map_tensor_file(path: Path) -> dict[str, Float32Array]:
    """Return a container's arrays by name as read-only maps of the file.

    Raises `Refusal("invalid-tensors")` for anything but an exact container.
    """
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        header = parse_header(prefix + file.read(header_bytes(prefix)))
    if path.stat().st_size != header.data_offset + header.layout.data_bytes:
        raise Refusal("invalid-tensors", "The container's size is not what its header says.")
    if not header.layout.size:
        return {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in header.layout.tensors}
    data: Float32Array = np.memmap(path, dtype="<f4", mode="r", offset=header.data_offset, shape=(header.layout.size,))
    arrays, start = {}, 0
    for tensor in header.layout.tensors:
        arrays[tensor.name] = data[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return arrays
