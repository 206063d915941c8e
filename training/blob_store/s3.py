"""Blobs in a bucket of an S3 store.

The piece of an upload is an object of its own, `uploads/<id>/<offset>-<end>`: durable when it is put, of any
size (a part of a multipart upload has at least 5 MiB), the same whoever puts it twice, and put by a
device itself where it has an address for it. Requests that race for one offset need no lock: each names the
range it brings. Nobody but this house writes under `blobs/`.
"""

import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Self

from qflare_protocol.errors import Refusal
from training.blob_store.contract import BlobDraft, BlobStore, BlobStoreUnavailable, absent, checked_name, pieces_of
from training.blob_store.location import S3Location
from training.blob_store.s3_objects import Bucket, ObjectAbsent, ObjectReader

BLOBS, DRAFTS, UPLOADS = "blobs/", "drafts/", "uploads/"
PART_BYTES = 8 << 20
"""What a draft holds in memory, and sends as one part; 10,000 of them are the most an object may have."""


@dataclass(frozen=True, order=True)
class PieceRange:
    """The bytes of an upload that one object holds."""

    start: int
    end: int


def chain_of(pieces: Iterable[PieceRange], end: int) -> list[PieceRange] | None:
    """Return pieces that follow one another without a gap from 0 to `end`; None where there are none such."""
    before: dict[int, PieceRange] = {}
    for piece in sorted(pieces):
        if piece.end not in before and (piece.start == 0 or piece.start in before):
            before[piece.end] = piece
    chain: list[PieceRange] = []
    while end:
        if end not in before:
            return None
        chain.append(before[end])
        end = chain[-1].start
    return chain[::-1]


class S3Store(BlobStore):
    """The store in a bucket. Raises `BlobStoreUnavailable` where it is out of reach."""

    def __init__(self, location: S3Location) -> None:
        self.bucket = Bucket(location)

    def draft(self) -> BlobDraft:
        return _ObjectDraft(self.bucket)

    def require_writable(self) -> None:
        probe = f"{DRAFTS}{uuid.uuid4().hex}"
        self.bucket.put(probe, b"", length=0)
        self.bucket.remove(probe)

    def size_of(self, digest: str) -> int | None:
        return self.bucket.size_of(blob_name(digest))

    def open(self, digest: str) -> ObjectReader:
        try:
            return self.bucket.open(blob_name(digest))
        except ObjectAbsent as error:
            raise absent() from error

    def open_file(self, digest: str) -> BinaryIO:
        try:
            return self.bucket.download(blob_name(digest))
        except ObjectAbsent as error:
            raise absent() from error

    def pieces_between(self, digest: str, positions: range) -> Iterator[bytes]:
        try:
            reader = self.bucket.open(blob_name(digest), positions)
        except ObjectAbsent as error:
            raise absent() from error
        return _closing(reader)

    def refresh(self, digest: str) -> bool:
        name = blob_name(digest)
        try:
            self.bucket.copy(name, name)
        except ObjectAbsent:
            return False
        return True

    def delete_unreferenced(self, referenced: Container[str], *, older_than_seconds: float, now: float) -> int:
        deleted = 0
        for folder in (BLOBS, DRAFTS):
            for seen in self.bucket.listed(folder):
                if seen.name.rpartition("/")[2] not in referenced and now - seen.modified_at > older_than_seconds:
                    deleted += self._delete_if_old(seen.name, older_than_seconds, now)
        for name, upload, begun_at in self.bucket.unfinished(DRAFTS):
            if now - begun_at > older_than_seconds:
                self.bucket.abandon_parts(name, upload)
                deleted += 1
        return deleted

    def _delete_if_old(self, name: str, older_than_seconds: float, now: float) -> int:
        """Look once more: between the listing, which may be long, and now the blob may have been handed in again."""
        modified_at = self.bucket.modified_at(name)
        if modified_at is None or now - modified_at <= older_than_seconds:
            return 0
        self.bucket.remove(name)
        return 1

    def stored_bytes(self, upload_id: uuid.UUID, *, at_most: int) -> int:
        reachable = {0}
        for piece in sorted(self._pieces(upload_id)):
            if piece.start in reachable and piece.end <= at_most:
                reachable.add(piece.end)
        return max(reachable)

    def append_piece(
        self, upload_id: uuid.UUID, piece: IO[bytes], *, offset: int, length: int, present_offset: Callable[[], int]
    ) -> bool:
        if present_offset() != offset:
            return False
        self.bucket.put(piece_name(upload_id, offset, length), piece.read(length), length=length)
        return True

    def publish_upload(self, upload_id: uuid.UUID, *, digest: bytes, total_bytes: int) -> bool:
        chain = chain_of(self._pieces(upload_id), total_bytes)
        if chain is None:
            return False
        try:
            with self.draft() as draft:
                for piece in chain:
                    name = piece_name(upload_id, piece.start, piece.end - piece.start)
                    for part in _closing(self.bucket.open(name)):
                        draft.write(part)
                draft.publish(expected_digest=digest, expected_bytes=total_bytes)
        except ObjectAbsent:  # a faster request has published the upload
            return False
        except Refusal as refusal:
            self.discard_upload(upload_id)
            detail = "The bytes uploaded are not the ones the manifest names; upload anew."
            raise Refusal(refusal.code, detail) from refusal
        self.discard_upload(upload_id)
        return True

    def discard_upload(self, upload_id: uuid.UUID) -> None:
        for seen in self.bucket.listed(f"{UPLOADS}{upload_id.hex}/"):
            self.bucket.remove(seen.name)

    def delete_abandoned_uploads(self, running: Container[uuid.UUID], *, older_than_seconds: float, now: float) -> int:
        deleted = 0
        for seen in self.bucket.listed(UPLOADS):
            owner = uuid.UUID(hex=seen.name.split("/")[1])
            if owner not in running and now - seen.modified_at > older_than_seconds:
                self.bucket.remove(seen.name)
                deleted += 1
        return deleted

    def download_address(self, digest: str) -> str | None:
        return self.bucket.address_to_get(blob_name(digest))

    def piece_address(self, upload_id: uuid.UUID, *, offset: int, length: int) -> str | None:
        return self.bucket.address_to_put(piece_name(upload_id, offset, length), length)

    def has_piece(self, upload_id: uuid.UUID, *, offset: int, length: int) -> bool:
        return self.bucket.size_of(piece_name(upload_id, offset, length)) == length

    def _pieces(self, upload_id: uuid.UUID) -> list[PieceRange]:
        names = [seen.name.rpartition("/")[2] for seen in self.bucket.listed(f"{UPLOADS}{upload_id.hex}/")]
        return [PieceRange(*map(int, name.split("-"))) for name in names]


class _ObjectDraft(BlobDraft):
    """A blob in the making: in memory up to 8 MiB, beyond that an object of parts under a name of its own.

    Its digest, which is its name, is known at its end only: the store copies it there, whole or not at all.
    """

    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self._bucket = bucket
        self._name = f"{DRAFTS}{uuid.uuid4().hex}"
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._held = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.clear()
        if self._upload is not None:
            with suppress(BlobStoreUnavailable):  # the sweep deletes what is left
                self._bucket.abandon_parts(self._name, self._upload)

    def _keep(self, piece: bytes) -> None:
        self._held += piece
        while len(self._held) > PART_BYTES:
            self._send(bytes(self._held[:PART_BYTES]))
            del self._held[:PART_BYTES]

    def _send(self, part: bytes) -> None:
        if self._upload is None:
            self._upload = self._bucket.begin_parts(self._name)
        self._parts.append(self._bucket.put_part(self._name, self._upload, len(self._parts) + 1, part))

    def _put_under(self, digest: str) -> None:
        if self._upload is None:
            self._bucket.put(blob_name(digest), bytes(self._held), length=len(self._held))
            return
        self._send(bytes(self._held))
        self._bucket.finish_parts(self._name, self._upload, self._parts)
        self._upload = None
        self._bucket.copy(self._name, blob_name(digest))
        self._bucket.remove(self._name)


def blob_name(digest: str) -> str:
    """Return the name of a blob's object. Raises `Refusal("not-found")` for what is no digest."""
    return f"{BLOBS}{checked_name(digest)[:2]}/{digest}"


def piece_name(upload_id: uuid.UUID, offset: int, length: int) -> str:
    """Return the name of the object of one piece."""
    return f"{UPLOADS}{upload_id.hex}/{offset}-{offset + length}"


def _closing(reader: ObjectReader) -> Iterator[bytes]:
    with reader:
        yield from pieces_of(reader)
