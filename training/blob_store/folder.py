"""Blobs as files of one folder, which all hosts see: written as drafts, synced, then renamed.

The bytes of an unfinished upload are one file beside the blobs, appended under a lock. A writer holds
the file's lock while it writes and checks then that the file still has its name: one that was published
in between is a blob, and nobody writes to blobs.
"""

import fcntl
import os
import tempfile
import uuid
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Self

import blake3

from qflare_protocol.errors import Refusal
from training.blob_store.contract import BlobDraft, BlobStore, absent, checked_name, pieces_of
from training.byte_ranges import pieces_between

DRAFT_PREFIX = ".draft-"
UPLOAD_PREFIX = ".upload-"


class FolderStore(BlobStore):
    """The store in a folder of this host, or of a file system with working `flock` that hosts share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, digest: str) -> Path:
        """Return where a blob of this digest is kept. Raises `Refusal("not-found")` for what is no digest."""
        return self.folder / checked_name(digest)[:2] / digest

    def upload_path(self, upload_id: uuid.UUID) -> Path:
        """Return where the bytes of an unfinished upload are kept."""
        return self.folder / f"{UPLOAD_PREFIX}{upload_id.hex}"

    def draft(self) -> BlobDraft:
        return _FileDraft(self)

    def require_writable(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def size_of(self, digest: str) -> int | None:
        try:
            return self.path_of(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, digest: str) -> BinaryIO:
        try:
            return self.path_of(digest).open("rb")
        except FileNotFoundError as error:
            raise absent() from error

    def open_file(self, digest: str) -> BinaryIO:
        return self.open(digest)

    def pieces_between(self, digest: str, positions: range) -> Iterator[bytes]:
        return pieces_between(self.open(digest), positions)

    def refresh(self, digest: str) -> bool:
        try:
            os.utime(self.path_of(digest))
        except FileNotFoundError:
            return False
        return True

    def delete_unreferenced(self, referenced: Container[str], *, older_than_seconds: float, now: float) -> int:
        others = (entry for entry in self._drafts_and_blobs() if entry.name not in referenced)
        return sum(_deleted(entry, older_than_seconds, now) for entry in others)

    def _drafts_and_blobs(self) -> "Iterator[os.DirEntry[str]]":
        for entry in _entries(self.folder):
            if entry.name.startswith(DRAFT_PREFIX):
                yield entry
            elif len(entry.name) == 2 and entry.is_dir():
                yield from _entries(Path(entry.path))

    def stored_bytes(self, upload_id: uuid.UUID, *, at_most: int) -> int:
        try:
            return min(at_most, self.upload_path(upload_id).stat().st_size)
        except FileNotFoundError:
            return 0

    def append_piece(
        self, upload_id: uuid.UUID, piece: IO[bytes], *, offset: int, length: int, present_offset: Callable[[], int]
    ) -> bool:
        path = self.upload_path(upload_id)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            sync_folder(self.folder)
        return True

    def publish_upload(self, upload_id: uuid.UUID, *, digest: bytes, total_bytes: int) -> bool:
        path, hasher = self.upload_path(upload_id), blake3.blake3()
        with _locked(path) as file:
            present = os.fstat(file.fileno()).st_size
            if present < total_bytes:
                if not present:  # locking made it anew: a faster request has published the upload
                    path.unlink()
                return False
            for part in pieces_of(file):
                hasher.update(part)
            if hasher.digest() != digest:
                path.unlink()
                raise Refusal("digest-mismatch", "The bytes uploaded are not the ones the manifest names; upload anew.")
            self.publish_file(path, digest.hex())
        return True

    def discard_upload(self, upload_id: uuid.UUID) -> None:
        self.upload_path(upload_id).unlink(missing_ok=True)

    def delete_abandoned_uploads(self, running: Container[uuid.UUID], *, older_than_seconds: float, now: float) -> int:
        uploads = (entry for entry in _entries(self.folder) if entry.name.startswith(UPLOAD_PREFIX))
        others = (entry for entry in uploads if uuid.UUID(hex=entry.name.removeprefix(UPLOAD_PREFIX)) not in running)
        return sum(_deleted(entry, older_than_seconds, now) for entry in others)

    def publish_file(self, file: Path, digest: str) -> None:
        """Let a file of the folder, complete and on disk, be the blob of that digest from now on."""
        target = self.path_of(digest)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        file.replace(target)
        sync_folder(target.parent)
        sync_folder(target.parent.parent)


class _FileDraft(BlobDraft):
    def __init__(self, store: FolderStore) -> None:
        super().__init__()
        self._store = store

    def __enter__(self) -> Self:
        folder = self._store.folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = tempfile.NamedTemporaryFile(dir=folder, prefix=DRAFT_PREFIX, delete=False)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._file.close()  # on a full disk it fails once more, with what is still in its buffer
        finally:
            Path(self._file.name).unlink(missing_ok=True)

    def _keep(self, piece: bytes) -> None:
        self._file.write(piece)

    def _put_under(self, digest: str) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._store.publish_file(Path(self._file.name), digest)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    """Yield what is in a folder, one by one; writers publish and delete meanwhile."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries


def _deleted(entry: "os.DirEntry[str]", older_than_seconds: float, now: float) -> bool:
    """Delete a file that has lain for long; return whether this call did. One that is gone got another name."""
    with suppress(FileNotFoundError):
        if now - entry.stat().st_mtime > older_than_seconds:
            Path(entry.path).unlink()
            return True
    return False


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
