"""Blobs as the services use them: encrypted models and sealed updates in the site's blob store."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, BinaryIO

from django.conf import settings

from training.blob_store.configured import blob_store
from training.blob_store.contract import BlobDraft, StoredBlob, pieces_of
from training.blob_store.folder import FolderStore

__all__ = ["BlobDraft", "StoredBlob", "blob_path", "new_blob", "open_blob", "opener_of", "pieces_of", "store_blob"]


def new_blob() -> BlobDraft:
    """Return what writes a new blob, as a context manager."""
    return blob_store().draft()


def store_blob(
    pieces: Iterable[bytes], *, expected_digest: bytes | None = None, expected_bytes: int | None = None
) -> StoredBlob:
    """Write a blob to stable storage under its digest; writing the same blob again is harmless.

    Raises `Refusal("digest-mismatch")` when the bytes or their number are not the expected ones.
    """
    with new_blob() as draft:
        for piece in pieces:
            draft.write(piece)
            if expected_bytes is not None and draft.size_bytes > expected_bytes:
                break
        return draft.publish(expected_digest=expected_digest, expected_bytes=expected_bytes)


def open_blob(digest: str) -> IO[bytes]:
    """Open a stored blob for reading from its beginning on. Raises `Refusal("not-found")`."""
    return blob_store().open(digest)


def opener_of(digest: str) -> Callable[[], BinaryIO]:
    """Return what opens a blob of that digest as a file that a sealed process can be given."""
    return lambda: blob_store().open_file(digest)


def blob_path(digest: str) -> Path:
    """Return where the store in a folder keeps a blob of this digest. Raises `Refusal("not-found")`."""
    return FolderStore(Path(settings.QFLARE_BLOB_DIR)).path_of(digest)
