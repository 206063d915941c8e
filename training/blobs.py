"""The blob store: encrypted models and sealed updates in a folder, named by their BLAKE3 digests."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import blake3
from django.conf import settings

from qflare_protocol.errors import Refusal

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredBlob:
    """A blob that is on stable storage."""

    digest: str
    size_bytes: int


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file in pieces of 1 MiB."""
    while piece := file.read(PIECE_BYTES):
        yield piece


def blob_path(digest: str) -> Path:
    """Return where a blob of this digest, 64 hexadecimal digits, is kept."""
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise Refusal("not-found", "There is no blob of that name.")
    return Path(settings.QFLARE_BLOB_DIR) / digest[:2] / digest


def store_blob(
    pieces: Iterable[bytes], *, expected_digest: bytes | None = None, maximum_bytes: int | None = None
) -> StoredBlob:
    """Write a blob to stable storage under its digest; writing the same blob again is harmless.

    The blob appears under its name only when it is complete and on disk. Raises `Refusal`:
    "digest-mismatch" when the bytes are not the expected ones, "update-too-large" above the maximum.
    """
    folder = Path(settings.QFLARE_BLOB_DIR)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    hasher, size = blake3.blake3(), 0
    with _draft(folder) as draft:
        for piece in pieces:
            size += len(piece)
            if maximum_bytes is not None and size > maximum_bytes:
                raise Refusal("update-too-large", f"The sealed update may have at most {maximum_bytes} bytes.")
            hasher.update(piece)
            draft.write(piece)
        if expected_digest is not None and hasher.digest() != expected_digest:
            raise Refusal("digest-mismatch", "The bytes received are not the ones the manifest names; send them again.")
        draft.flush()
        os.fsync(draft.fileno())
        _publish(Path(draft.name), blob_path(hasher.hexdigest()))
    return StoredBlob(hasher.hexdigest(), size)


@contextmanager
def _draft(folder: Path) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".draft-", delete=False) as draft:
        try:
            yield draft
        finally:
            Path(draft.name).unlink(missing_ok=True)


def _publish(draft: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    draft.replace(target)
    for folder in (target.parent, target.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_blob(digest: str) -> IO[bytes]:
    """Open a stored blob for reading. Raises `Refusal("not-found")`."""
    try:
        return blob_path(digest).open("rb")
    except FileNotFoundError as error:
        raise Refusal("not-found", "There is no blob of that name.") from error


def delete_blob(digest: str) -> None:
    """Delete a blob; one that is gone already stays gone."""
    blob_path(digest).unlink(missing_ok=True)
