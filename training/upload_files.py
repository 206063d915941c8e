"""The bytes of unfinished uploads: one file each beside the blobs, appended under a lock, published whole.

A writer holds the file's lock while it writes and checks then that the file still has its name: one that
was published in between is a blob, and nobody writes to blobs.
"""

import fcntl
import os
import uuid
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import blake3
from django.conf import settings

from qflare_protocol.errors import Refusal
from training.blobs import pieces_of, publish_file, sync_folder

UPLOAD_PREFIX = ".upload-"


def upload_path(upload_id: uuid.UUID) -> Path:
    """Return where the bytes of an unfinished upload are kept."""
    return Path(settings.QFLARE_BLOB_DIR) / f"{UPLOAD_PREFIX}{upload_id.hex}"


def stored_bytes(upload_id: uuid.UUID) -> int:
    """Return how many bytes of an upload are on disk; 0 where its file is gone or not there yet."""
    try:
        return upload_path(upload_id).stat().st_size
    except FileNotFoundError:
        return 0


def append_piece(upload_id: uuid.UUID, piece: IO[bytes], *, offset: int, present_offset: Callable[[], int]) -> bool:
    """Put a piece on stable storage behind `offset` bytes; return whether it was written.

    `present_offset` is asked under the lock: what a slow writer brings late must not cut off bytes that
    were acknowledged since. Nothing is written where it, or the file's size, says that the piece does not fit.
    """
    path = upload_path(upload_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path) as file:
        if present_offset() != offset or os.fstat(file.fileno()).st_size < offset:
            return False
        file.seek(offset)
        for part in pieces_of(piece):
            file.write(part)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    if not offset:
        sync_folder(path.parent)
    return True


def publish_upload(upload_id: uuid.UUID, *, digest: bytes) -> None:
    """Make a finished upload a blob. Raises `Refusal("digest-mismatch")`, and then the bytes are gone."""
    path, hasher = upload_path(upload_id), blake3.blake3()
    with _locked(path) as file:
        for part in pieces_of(file):
            hasher.update(part)
        if hasher.digest() != digest:
            path.unlink()
            raise Refusal("digest-mismatch", "The bytes uploaded are not the ones the manifest names; upload anew.")
        publish_file(path, digest.hex())


def discard_upload(upload_id: uuid.UUID) -> None:
    """Delete what is there of an upload."""
    upload_path(upload_id).unlink(missing_ok=True)


def delete_abandoned_files(running: Container[uuid.UUID], *, older_than_seconds: float, now: float) -> int:
    """Delete files that no upload in `running` owns and that nobody wrote to for long; return how many."""
    deleted = 0
    for path in Path(settings.QFLARE_BLOB_DIR).glob(f"{UPLOAD_PREFIX}*"):
        owner = uuid.UUID(hex=path.name.removeprefix(UPLOAD_PREFIX))
        if owner not in running and now - path.stat().st_mtime > older_than_seconds:
            path.unlink(missing_ok=True)
            deleted += 1
    return deleted


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if _is_named(file, path):
                yield file
                return


def _is_named(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
