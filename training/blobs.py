"""The blob store: encrypted models and sealed updates in a folder, named by their BLAKE3 digests."""

import os
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Self

import blake3
from django.conf import settings

from qflare_protocol.errors import Refusal

PIECE_BYTES = 1 << 20
DRAFT_PREFIX = ".draft-"


@dataclass(frozen=True)
class StoredBlob:
    """A blob that is on stable storage."""

    digest: str
    size_bytes: int


def opener_of(digest: str) -> Callable[[], BinaryIO]:
    """Return what opens a blob of that digest for reading."""
    return lambda: open_blob(digest)


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file in pieces of 1 MiB."""
    while piece := file.read(PIECE_BYTES):
        yield piece


def blob_path(digest: str) -> Path:
    """Return where a blob of this digest, 64 hexadecimal digits, is kept."""
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise Refusal("not-found", "There is no blob of that name.")
    return Path(settings.QFLARE_BLOB_DIR) / digest[:2] / digest


class BlobWriter:
    """Writes a blob piece by piece; it is in the store from `finish` on, and nothing of it is left without.

    It appears under its name only when it is complete, as expected and on disk.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hasher = blake3.blake3()

    def __enter__(self) -> Self:
        folder = Path(settings.QFLARE_BLOB_DIR)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._draft = tempfile.NamedTemporaryFile(dir=folder, prefix=DRAFT_PREFIX, delete=False)
        return self

    def __exit__(self, *exception: object) -> None:
        self._draft.close()
        Path(self._draft.name).unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self._hasher.update(piece)
        self._draft.write(piece)
        self.size_bytes += len(piece)

    def finish(self, *, expected_digest: bytes | None = None, expected_bytes: int | None = None) -> StoredBlob:
        """Put the blob on stable storage under its digest. Raises `Refusal("digest-mismatch")` for another blob."""
        digest = self._hasher.digest()
        if expected_digest not in (None, digest) or expected_bytes not in (None, self.size_bytes):
            raise Refusal("digest-mismatch", "The bytes received are not the ones the manifest names; send them again.")
        self._draft.flush()
        os.fsync(self._draft.fileno())
        publish_file(Path(self._draft.name), digest.hex())
        return StoredBlob(digest.hex(), self.size_bytes)


def store_blob(
    pieces: Iterable[bytes], *, expected_digest: bytes | None = None, expected_bytes: int | None = None
) -> StoredBlob:
    """Write a blob to stable storage under its digest; writing the same blob again is harmless.

    Raises `Refusal("digest-mismatch")` when the bytes or their number are not the expected ones.
    """
    with BlobWriter() as writer:
        for piece in pieces:
            writer.write(piece)
            if expected_bytes is not None and writer.size_bytes > expected_bytes:
                break
        return writer.finish(expected_digest=expected_digest, expected_bytes=expected_bytes)


def publish_file(file: Path, digest: str) -> None:
    """Let a file of the store's folder, complete and on disk, be the blob of that digest from now on."""
    target = blob_path(digest)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    file.replace(target)
    sync_folder(target.parent)
    sync_folder(target.parent.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def blob_exists(digest: str) -> bool:
    """Return whether the store has a blob of that digest."""
    return blob_path(digest).exists()


def keep_blob_fresh(digest: str) -> bool:
    """Let a blob look as if it were written now, so that no sweep takes it; False where there is none."""
    try:
        os.utime(blob_path(digest))
    except FileNotFoundError:
        return False
    return True


def open_blob(digest: str) -> IO[bytes]:
    """Open a stored blob for reading. Raises `Refusal("not-found")`."""
    try:
        return blob_path(digest).open("rb")
    except FileNotFoundError as error:
        raise Refusal("not-found", "There is no blob of that name.") from error


def delete_unreferenced_blobs(referenced: Container[str], *, older_than_seconds: float, now: float) -> int:
    """Delete blobs and drafts that nothing names and that have lain for long; return how many.

    `now` is a Unix time. The age protects what is being handed in: a blob is written, or written
    again, before the row that names it.
    """
    folder, deleted = Path(settings.QFLARE_BLOB_DIR), 0
    for path in [*folder.glob(f"{DRAFT_PREFIX}*"), *folder.glob("??/*")]:
        if path.name not in referenced and now - path.stat().st_mtime > older_than_seconds:
            path.unlink(missing_ok=True)
            deleted += 1
    return deleted
