"""The base model, the opened updates and the carried rows, read front to back as rows of float32.

What is read lies in files whose descriptors the process was given before it sealed itself. Every
byte is hashed on its way and every sealed chunk is authenticated before any of it is used; what a
row's digest vouches for is known when it has been read to its end.
"""

import os
from collections.abc import Callable, Set
from typing import Protocol

import blake3
import numpy as np
from numpy.typing import NDArray

from enclave.core.extent import Extent
from enclave.core.inputs import Candidate
from qflare_protocol import hpke, update
from qflare_protocol.chunked import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, ChunkCipher
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import UpdatePart
from qflare_protocol.ranges import BLOCK_COLUMNS, Columns
from qflare_protocol.tensors import (
    FLOAT32_ONLY,
    LENGTH_BYTES,
    TensorLayout,
    header_bytes,
    parse_header,
    require_layout,
)
from qflare_protocol.update import UpdateContext, open_content_key
from qflare_protocol.update_codings import Coding, Float32Coding

Float32 = NDArray[np.float32]


class Blob(Protocol):
    """A file that can be read at any place."""

    size: int

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill the buffer from that offset. Raises `Refusal("digest-mismatch")` where the file ends first."""


class FileBlob:
    """An open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.lseek(descriptor, 0, os.SEEK_END)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill the buffer from that offset. Raises `Refusal("digest-mismatch")` where the file ends first."""
        while target:
            count = os.preadv(self._descriptor, [target], offset)
            if count == 0:
                raise Refusal("digest-mismatch", "The file ends before its end.")
            target, offset = target[count:], offset + count


class PartOfBlob:
    """Some bytes of a blob, as a blob of their own."""

    def __init__(self, blob: Blob, offset: int, size: int) -> None:
        self._blob, self._offset = blob, offset
        self.size = size

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill the buffer from that offset. Raises `Refusal("digest-mismatch")` where the file ends first."""
        self._blob.read_into(target, self._offset + offset)


class Content(Protocol):
    """Bytes that are read front to back."""

    left: int

    def read_into(self, target: memoryview) -> None:
        """Fill the buffer with the next bytes. Raises `Refusal`."""

    def finish(self) -> None:
        """Return when everything read was what its digest vouches for. Raises `Refusal`."""


class HashedBlob:
    """A blob read front to back and hashed with BLAKE3."""

    def __init__(self, blob: Blob, expected_digest: bytes) -> None:
        self.left = blob.size
        self._blob = blob
        self._expected_digest = expected_digest
        self._hasher = blake3.blake3()

    def read_into(self, target: memoryview) -> None:
        """Fill the buffer with the next bytes. Raises `Refusal`."""
        if len(target) > self.left:
            raise Refusal("invalid-tensors", "The container ends too early.")
        self._blob.read_into(target, self._blob.size - self.left)
        self._hasher.update(target)
        self.left -= len(target)

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises `Refusal`."""
        target = bytearray(size)
        self.read_into(memoryview(target))
        return bytes(target)

    def finish(self) -> None:
        """Return when all bytes were read and their digest is the expected one. Raises `Refusal`."""
        if self.left or self._hasher.digest() != self._expected_digest:
            raise Refusal("digest-mismatch", "The bytes are not those of the signed digest.")


class OpenedStream:
    """The plaintext of a sealed stream, one chunk at a time; `scratch` holds a ciphertext and may be shared."""

    def __init__(self, sealed: HashedBlob, cipher: ChunkCipher, scratch: memoryview) -> None:
        chunks = max(1, -(-sealed.left // (CHUNK_BYTES + TAG_BYTES)))
        self.left = sealed.left - chunks * TAG_BYTES
        self._sealed, self._cipher, self._scratch = sealed, cipher, scratch
        self._plaintext = memoryview(bytearray(CHUNK_BYTES))
        self._chunk = self._plaintext[:0]
        self._chunks, self._opened = chunks, 0

    def read_into(self, target: memoryview) -> None:
        """Fill the buffer with the next bytes of plaintext. Raises `Refusal`."""
        if len(target) > self.left:
            raise Refusal("invalid-tensors", "The container ends too early.")
        self.left -= len(target)
        while target:
            if not self._chunk:
                self._open_next()
            taken = min(len(target), len(self._chunk))
            target[:taken] = self._chunk[:taken]
            self._chunk, target = self._chunk[taken:], target[taken:]

    def finish(self) -> None:
        """Return when the plaintext has been read to its end and the digest holds. Raises `Refusal`."""
        if self._opened == 0:
            self._open_next()
        if self.left or self._opened != self._chunks:
            raise Refusal("invalid-tensors", "The container's size is not what its header says.")
        self._sealed.finish()

    def _open_next(self) -> None:
        ciphertext = self._scratch[: min(self._sealed.left, CHUNK_BYTES + TAG_BYTES)]
        if len(ciphertext) < TAG_BYTES:
            raise Refusal("decryption-failed", "The stream is cut off.")
        self._sealed.read_into(ciphertext)
        self._chunk = self._plaintext[: len(ciphertext) - TAG_BYTES]
        last = self._opened == self._chunks - 1
        self._cipher.open_chunk_into(self._opened, ciphertext, self._chunk, last=last)
        self._opened += 1


class Row:
    """The tensors of one container, read from front to back as one row of float32."""

    def __init__(self, content: Content) -> None:
        self.layout = layout_before(content)
        self._content = content

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        self._content.read_into(row.data.cast("B"))

    def finish(self) -> None:
        """Return when the container ends here and all of its source was what its digest says. Raises `Refusal`."""
        self._content.finish()


class CodedRow:
    """A row of `size` values in an update's coding; it is read in whole blocks of the grid, and then the rest."""

    def __init__(self, content: Content, coding: Coding, size: int) -> None:
        if content.left != coding.coded_bytes(size):
            raise Refusal("invalid-tensors", "A row is not as long as its columns of the model.")
        self._content, self._coding = content, coding

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        coded = np.empty(self._coding.coded_bytes(len(row)), dtype=np.uint8)
        self._content.read_into(coded.data)
        self._coding.decode(coded, row)

    def finish(self) -> None:
        """Return when the row's source was what its digest says. Raises `Refusal`."""
        self._content.finish()


class RawRow:
    """A row of float32 without a container."""

    def __init__(self, content: Content, size: int) -> None:
        if content.left != size * 4:
            raise Refusal("invalid-tensors", "A row is not as long as its columns of the model.")
        self._content = content

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        self._content.read_into(row.data.cast("B"))

    def finish(self) -> None:
        """Return when the row's source was what its digest says. Raises `Refusal`."""
        self._content.finish()


class AnyRow(Protocol):
    """Anything that is read as a row of float32."""

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""

    def finish(self) -> None:
        """Return when everything read was what its digest vouches for. Raises `Refusal`."""


class RowOfColumns:
    """Some columns of a row, all of which is read: its digest is over all of it."""

    def __init__(self, row: AnyRow, columns: Columns) -> None:
        self._row, self._columns = row, columns
        self._skip(columns.start)

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        self._row.read_into(row)

    def finish(self) -> None:
        """Return when the row has been read to its end and was what its digest says. Raises `Refusal`."""
        self._skip(self._columns.size - self._columns.stop)
        self._row.finish()

    def _skip(self, columns: int) -> None:
        ignored = np.empty(min(columns, BLOCK_COLUMNS), dtype=np.float32)
        while columns:
            width = min(columns, BLOCK_COLUMNS)
            self._row.read_into(ignored[:width])
            columns -= width


class AveragedRow:
    """β · before + (1 - β) · now, element by element: a device's exponential average with its new update."""

    def __init__(self, now: AnyRow, before: AnyRow, beta: float) -> None:
        self._now, self._before = now, before
        self._beta = np.float32(beta)

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        before = np.empty_like(row)
        self._before.read_into(before)
        self._now.read_into(row)
        row *= np.float32(1.0) - self._beta
        row += self._beta * before

    def finish(self) -> None:
        """Return when both rows have ended as they should. Raises `Refusal`."""
        self._now.finish()
        self._before.finish()


class DifferenceRow:
    """`now` - `base`, element by element: an update of an update that is new weights."""

    def __init__(self, now: AnyRow, base: AnyRow) -> None:
        self._now, self._base = now, base

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        base = np.empty_like(row)
        self._base.read_into(base)
        self._now.read_into(row)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused when the row has ended
            row -= base

    def finish(self) -> None:
        """Return when both rows have ended as they should. Raises `Refusal`."""
        self._now.finish()
        self._base.finish()


def open_base_model(blob: Blob, expected_digest: bytes) -> Row:
    """Return the base model's row. Raises `Refusal`: "invalid-tensors" or "digest-mismatch"."""
    return Row(HashedBlob(blob, expected_digest))


def open_update(candidate: Candidate, opener: hpke.Opener, extent: Extent, blob: Blob, scratch: memoryview) -> AnyRow:
    """Return the opened row of an update, whose container is the one of its form. Raises `Refusal`."""
    manifest = candidate.manifest
    whole = UpdatePart(manifest.enclave_key_id, manifest.ciphertext_bytes, manifest.ciphertext_digest)
    content = _opened(candidate, whole, opener, blob, scratch)
    coding = extent.shape.form.coding
    require_layout(layout_before(content, dtypes=frozenset({coding.dtype})), extent.shape.container)
    return _row_of(content, coding, extent)


def open_part(candidate: Candidate, opener: hpke.Opener, extent: Extent, blob: Blob, scratch: memoryview) -> AnyRow:
    """Return the opened row of an update's part for one range. Raises `Refusal`."""
    if blob.size != candidate.manifest.ciphertext_bytes:
        raise _of_another_size(candidate.manifest.ciphertext_bytes)
    before = sum(part.ciphertext_bytes for part in candidate.manifest.parts[: extent.index])
    part = candidate.manifest.parts[extent.index]
    place = PartOfBlob(blob, before, part.ciphertext_bytes)
    return _row_of(_opened(candidate, part, opener, place, scratch), extent.shape.form.coding, extent)


def _row_of(content: Content, coding: Coding, extent: Extent) -> AnyRow:
    """Return the row in its coding; float32 is read where it lies."""
    width = extent.columns.width
    return RawRow(content, width) if isinstance(coding, Float32Coding) else CodedRow(content, coding, width)


def layout_before(content: Content, *, dtypes: Set[str] = FLOAT32_ONLY) -> TensorLayout:
    """Read a container's header, after which exactly its data is left. Raises `Refusal("invalid-tensors")`."""
    prefix = _read(content, LENGTH_BYTES)
    header = parse_header(prefix + _read(content, header_bytes(prefix)), dtypes=dtypes)
    if content.left != header.layout.data_bytes:
        raise Refusal("invalid-tensors", "The container's size is not what its header says.")
    return header.layout


def _opened(
    candidate: Candidate, part: UpdatePart, opener: hpke.Opener, blob: Blob, scratch: memoryview
) -> OpenedStream:
    manifest = candidate.manifest
    context = UpdateContext(
        federation_id=manifest.federation_id,
        round_id=manifest.round_id,
        device_id=manifest.device_id,
        enclave_key_id=part.enclave_key_id,
        base_model_digest=manifest.base_model_digest,
    )
    if blob.size != part.ciphertext_bytes:
        raise _of_another_size(part.ciphertext_bytes)
    sealed = HashedBlob(blob, part.ciphertext_digest)
    if sealed.left < update.HEADER_BYTES + HEADER_BYTES + TAG_BYTES:
        raise Refusal("decryption-failed", "The sealed update ends too early.")
    content_key, stream_context = open_content_key(opener, context, sealed.read(update.HEADER_BYTES))
    cipher = ChunkCipher.from_header(content_key, sealed.read(HEADER_BYTES), stream_context)
    return OpenedStream(sealed, cipher, scratch)


def _of_another_size(expected: int) -> Refusal:
    return Refusal("digest-mismatch", f"The blob does not have the {expected} bytes it should.")


def new_scratch() -> memoryview:
    """Return a buffer for one sealed chunk."""
    return memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))


OpenRow = Callable[[], AnyRow]


def _read(content: Content, size: int) -> bytes:
    target = bytearray(size)
    content.read_into(memoryview(target))
    return bytes(target)
