"""The base model and the opened updates as rows of float32 that are read range by range."""

from collections.abc import Iterable, Iterator

import blake3
import numpy as np
from numpy.typing import NDArray

from enclave.core.inputs import Candidate
from qflare_protocol.byte_reader import ByteReader
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import LENGTH_BYTES, TensorLayout, header_bytes, parse_header, require_layout
from qflare_protocol.update import UpdateContext, open_update

Float32 = NDArray[np.float32]


class Row:
    """The tensors of one container, read from front to back as one row of float32."""

    def __init__(self, reader: ByteReader, content: "DigestedBytes") -> None:
        prefix = reader.read(LENGTH_BYTES)
        header = parse_header(prefix + reader.read(header_bytes(prefix)))
        self.layout = header.layout
        self._reader = reader
        self._content = content

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        self._reader.read_into(row.data.cast("B"))

    def skip(self, columns: int) -> None:
        """Read on to the end without keeping anything; `columns` at a time."""
        left, scratch = self.layout.size, np.empty(columns, dtype=np.float32)
        while left:
            width = min(left, columns)
            self.read_into(scratch[:width])
            left -= width

    def finish(self) -> None:
        """Return when the container ends here and all of its source was what its digest says. Raises `Refusal`."""
        if not self._reader.at_end():
            raise Refusal("invalid-tensors", "The container's size is not what its header says.")
        self._content.verify()


class DigestedBytes:
    """Pieces on their way through, bounded by the announced size and hashed with BLAKE3."""

    def __init__(self, pieces: Iterable[bytes], expected_digest: bytes, expected_bytes: int | None) -> None:
        self._pieces = pieces
        self._expected_digest = expected_digest
        self._expected_bytes = expected_bytes
        self._hasher = blake3.blake3()
        self._seen = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._seen += len(piece)
            if self._expected_bytes is not None and self._seen > self._expected_bytes:
                raise Refusal("digest-mismatch", "There are more bytes than the manifest says.")
            self._hasher.update(piece)
            yield piece

    def verify(self) -> None:
        """Return when size and digest are as announced. Raises `Refusal("digest-mismatch")`."""
        if self._expected_bytes is not None and self._seen != self._expected_bytes:
            raise Refusal("digest-mismatch", "There are fewer bytes than the manifest says.")
        if self._hasher.digest() != self._expected_digest:
            raise Refusal("digest-mismatch", "The bytes are not those of the signed digest.")


def open_base_model(pieces: Iterable[bytes], expected_digest: bytes) -> Row:
    """Return the base model's row. Raises `Refusal("invalid-tensors")`."""
    content = DigestedBytes(pieces, expected_digest, expected_bytes=None)
    return Row(ByteReader(content, what="base model", code="invalid-tensors"), content)


def open_delta(candidate: Candidate, hpke_private: bytes, layout: TensorLayout, pieces: Iterable[bytes]) -> Row:
    """Return the opened update's row, whose layout is the base model's. Raises `Refusal`."""
    manifest = candidate.manifest
    context = UpdateContext(
        federation_id=manifest.federation_id,
        round_id=manifest.round_id,
        device_id=manifest.device_id,
        enclave_key_id=manifest.enclave_key_id,
        base_model_digest=manifest.base_model_digest,
    )
    content = DigestedBytes(pieces, manifest.ciphertext_digest, manifest.ciphertext_bytes)
    plaintext = open_update(hpke_private, context, content)
    row = Row(ByteReader(plaintext, what="update", code="invalid-tensors"), content)
    require_layout(row.layout, layout)
    return row
