"""What a blob store does: blobs named by their BLAKE3 digests, and the bytes of uploads that are not whole yet.

A blob is in the store from the moment it is published, complete, and never changes. The pieces of an
upload are on stable storage when `append_piece` returns.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Self

import blake3

from qflare_protocol.errors import Refusal

PIECE_BYTES = 1 << 20


class BlobStoreUnavailable(Exception):  # noqa: N818 - it says what happened
    """The store does not answer as it should; nothing of what was asked for is known to have happened."""


@dataclass(frozen=True)
class StoredBlob:
    """A blob that is on stable storage."""

    digest: str
    size_bytes: int


def checked_name(digest: str) -> str:
    """Return what names a blob, 64 hexadecimal digits. Raises `Refusal("not-found")` for anything else."""
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise absent()
    return digest


def absent() -> Refusal:
    """Return the refusal of a blob that the store does not have."""
    return Refusal("not-found", "There is no blob of that name.")


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file in pieces of 1 MiB."""
    while piece := file.read(PIECE_BYTES):
        yield piece


class BlobDraft(ABC):
    """A blob that is being written; left without `publish`, nothing of it stays."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hasher = blake3.blake3()

    @abstractmethod
    def __enter__(self) -> Self:
        """Begin the draft."""

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Throw away what was not published."""

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self._hasher.update(piece)
        self.size_bytes += len(piece)
        self._keep(piece)

    def publish(self, *, expected_digest: bytes | None = None, expected_bytes: int | None = None) -> StoredBlob:
        """Put the blob on stable storage under its digest. Raises `Refusal("digest-mismatch")` for another blob."""
        digest = self._hasher.digest()
        if expected_digest not in (None, digest) or expected_bytes not in (None, self.size_bytes):
            raise Refusal("digest-mismatch", "The bytes received are not the ones the manifest names; send them again.")
        self._put_under(digest.hex())
        return StoredBlob(digest.hex(), self.size_bytes)

    @abstractmethod
    def _keep(self, piece: bytes) -> None: ...

    @abstractmethod
    def _put_under(self, digest: str) -> None: ...


class BlobStore(ABC):
    """A store of blobs. Everything but the folder raises `BlobStoreUnavailable` where it is out of reach.

    Digests are texts of 64 hexadecimal digits; what takes one raises `Refusal("not-found")` for other
    texts. Ages are seconds before `now`, a Unix time.
    """

    @abstractmethod
    def draft(self) -> BlobDraft:
        """Return what writes a new blob piece by piece."""

    @abstractmethod
    def require_writable(self) -> None:
        """Raise `BlobStoreUnavailable` where the store takes no blobs; of a folder, room is asked instead."""

    @abstractmethod
    def size_of(self, digest: str) -> int | None:
        """Return a blob's size in bytes; None where there is none."""

    @abstractmethod
    def open(self, digest: str) -> IO[bytes]:
        """Open a blob for reading from its beginning on, once. Raises `Refusal("not-found")`."""

    @abstractmethod
    def open_file(self, digest: str) -> BinaryIO:
        """Open a blob as a file with a descriptor, which a sealed process can be given. Raises as `open` does."""

    @abstractmethod
    def pieces_between(self, digest: str, positions: range) -> Iterator[bytes]:
        """Return a blob's bytes at these positions in pieces of at most 1 MiB. Raises as `open` does, at once."""

    @abstractmethod
    def refresh(self, digest: str) -> bool:
        """Let a blob look as if it were written now, so that no sweep takes it; False where there is none."""

    @abstractmethod
    def delete_unreferenced(self, referenced: Container[str], *, older_than_seconds: float, now: float) -> int:
        """Delete blobs and drafts that nothing names and that have lain for long; return how many.

        The age protects what is being handed in: a blob is written, or written again, before the row that
        names it.
        """

    @abstractmethod
    def stored_bytes(self, upload_id: uuid.UUID, *, at_most: int) -> int:
        """Return up to where an upload's bytes are there without a gap, looking no further than `at_most`."""

    @abstractmethod
    def append_piece(
        self, upload_id: uuid.UUID, piece: IO[bytes], *, offset: int, length: int, present_offset: Callable[[], int]
    ) -> bool:
        """Put a piece of `length` bytes on stable storage behind `offset` bytes; return whether it was written.

        `present_offset` says where the upload ends now: what a slow writer brings late must not cut off bytes
        that were acknowledged since.
        """

    @abstractmethod
    def publish_upload(self, upload_id: uuid.UUID, *, digest: bytes, total_bytes: int) -> bool:
        """Make an upload a blob, its digest read back from the store; False where bytes of it are missing.

        Raises `Refusal("digest-mismatch")`, and then its bytes are gone.
        """

    @abstractmethod
    def discard_upload(self, upload_id: uuid.UUID) -> None:
        """Delete what is there of an upload."""

    @abstractmethod
    def delete_abandoned_uploads(self, running: Container[uuid.UUID], *, older_than_seconds: float, now: float) -> int:
        """Delete bytes that no upload in `running` owns and that nobody wrote to for long; return how many pieces."""

    def download_address(self, digest: str) -> str | None:
        """Return an address, of short life, where a device itself reads a blob; None where the store has none."""
        checked_name(digest)
        return None

    def piece_address(self, upload_id: uuid.UUID, *, offset: int, length: int) -> str | None:
        """Return an address, of short life, where a device itself puts this piece; None where the store has none."""
        return None

    def has_piece(self, upload_id: uuid.UUID, *, offset: int, length: int) -> bool:
        """Return whether a piece that a device put there itself has arrived, with this length."""
        return False
