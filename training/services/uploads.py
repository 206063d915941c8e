"""Updates that arrive in pieces: an upload is begun with its manifest, grows, and is counted with its last piece.

The pieces' bytes are durable before the transaction that acknowledges them (`receive_piece`, then
`record_piece`); the row's offset decides what is there, and moves on by a conditional UPDATE. Where the
blob store has addresses for it, a device may put a piece there itself and only tell of it.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from django.conf import settings
from django.db import transaction

from devices.models import Device
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import manifest_digest
from training.blob_store.configured import blob_store
from training.models import WAITING, Participation, RoundState, Upload
from training.services.participation import CheckedManifest, ReceivedUpdate, check_manifest, record_update
from training.services.progress import lease_until


@dataclass(frozen=True)
class ReceivedPiece:
    """A piece that is durable, not yet acknowledged; `end` is None where it was there before.

    `direct` says that the device put it into the blob store itself, as it will the next one.
    """

    upload_id: uuid.UUID
    offset: int
    end: int | None
    update: ReceivedUpdate | None
    direct: bool = False


@transaction.atomic
def begin_upload(device: Device, signed: bytes, *, now: datetime, direct: bool = False) -> dict[str, Any]:
    """Begin the upload of the manifest's update, or find it; a receipt where the server has the update already.

    `direct` asks for an address at the blob store for the next piece. Where bytes were lost since, as with a
    restored backup, the upload goes back to those that are there. Raises what `participation.check_manifest`
    raises.
    """
    checked = check_manifest(device, signed, now=now)
    if checked.earlier is not None:
        return {"receipt": record_update(device, _received(checked), now=now)}
    digest = manifest_digest(signed)
    other = Upload.objects.filter(participation=checked.part).exclude(manifest_digest=digest).first()
    if other is not None:  # sealed anew meanwhile: a device has one upload in a round
        other_id = other.id
        other.delete()
        transaction.on_commit(lambda: blob_store().discard_upload(other_id), robust=True)
    upload, _ = Upload.objects.get_or_create(
        participation=checked.part,
        defaults={
            "manifest": signed,
            "manifest_digest": digest,
            "total_bytes": checked.manifest.ciphertext_bytes,
            "begun_at": now,
        },
    )
    if bytes(upload.manifest_digest) != digest:
        raise Refusal("conflict", "Another upload of this device into the round begins at this moment; begin again.")
    upload.participation = checked.part  # with its round: one that is found would read the roster too
    _keep_lease(checked.part, now)
    if upload.offset_bytes:
        _go_back_to_stored_bytes(upload, checked.manifest.ciphertext_digest.hex())
    return upload_status(upload, direct=direct)


def _keep_lease(part: Participation, now: datetime) -> None:
    """Let the round wait for a device whose update arrives, as for one that reports."""
    waiting = Participation.objects.filter(id=part.id, state__in=WAITING)
    waiting.update(progress_lease_until=lease_until(part.round.federation, now))


def _go_back_to_stored_bytes(upload: Upload, blob_digest: str) -> None:
    store, acknowledged = blob_store(), upload.offset_bytes
    present = store.stored_bytes(upload.id, at_most=acknowledged)
    if present < acknowledged and store.size_of(blob_digest) is None:
        Upload.objects.filter(id=upload.id, offset_bytes=acknowledged).update(offset_bytes=present)
        upload.offset_bytes = present


def upload_status(upload: Upload, *, direct: bool = False) -> dict[str, Any]:
    """Return what a device is told of its unfinished upload; with `direct`, where it puts the next piece itself."""
    status = {
        "upload_id": upload.id.bytes,
        "offset": upload.offset_bytes,
        "piece_bytes": piece_bytes(),
        "expires_at": int(upload.participation.round.deadline_at.timestamp()),
    }
    return status | _address_of_next_piece(upload) if direct else status


def _address_of_next_piece(upload: Upload) -> dict[str, Any]:
    if not settings.QFLARE_BLOB_REDIRECT:
        return {}
    length = min(piece_bytes(), upload.total_bytes - upload.offset_bytes)
    address = blob_store().piece_address(upload.id, offset=upload.offset_bytes, length=length)
    return {} if address is None else {"put_url": address, "put_bytes": length}


def piece_bytes() -> int:
    """Return the most bytes a piece may have: one has to fit into the allowance of a session's keys."""
    return int(min(settings.QFLARE_UPLOAD_PIECE_BYTES, settings.QFLARE_SESSION_LIMITS["transfer_bytes"]))


def upload_of(device: Device, upload_id: uuid.UUID) -> Upload:
    """Return an unfinished upload of the device. Raises `Refusal("not-found")`."""
    uploads = Upload.objects.select_related("participation__round__federation").defer("participation__round__roster")
    upload = uploads.filter(id=upload_id, participation__device=device).first()
    if upload is None:
        raise Refusal("not-found", "There is no such upload; begin it again with its manifest.")
    return upload


def receive_piece(
    device: Device, upload_id: uuid.UUID, piece: IO[bytes] | None, *, offset: int, length: int, now: datetime
) -> ReceivedPiece:
    """Put a piece of `length` bytes on stable storage, and with the last one the update; changes no row.

    None for the piece: the device has put it into the blob store itself, which is asked whether it is there.
    A piece that begins before the upload's end was stored before, and nothing is done. Raises `Refusal`:
    "not-found", "upload-offset-mismatch" (its extension `offset` says where the upload ends),
    "malformed-message", "digest-mismatch", and what `participation.check_manifest` raises; and
    `BlobStoreUnavailable`.
    """
    upload, direct = upload_of(device, upload_id), piece is None
    checked = check_manifest(device, bytes(upload.manifest), now=now)
    if offset < upload.offset_bytes:
        return ReceivedPiece(upload.id, offset, None, None, direct)
    if offset > upload.offset_bytes:
        raise _mismatch(upload.offset_bytes)
    end = offset + length
    if not offset < end <= upload.total_bytes:
        raise Refusal("malformed-message", f"A piece has bytes, and ends at {upload.total_bytes} at the latest.")
    if not _is_stored(upload, piece, offset=offset, length=length):
        return _late_piece(upload, checked, offset, direct)
    if end < upload.total_bytes:
        return ReceivedPiece(upload.id, offset, end, None, direct)
    digest = checked.manifest.ciphertext_digest
    if not blob_store().publish_upload(upload.id, digest=digest, total_bytes=upload.total_bytes):
        return _late_piece(upload, checked, offset, direct)
    return ReceivedPiece(upload.id, offset, end, _received(checked), direct)


def _is_stored(upload: Upload, piece: IO[bytes] | None, *, offset: int, length: int) -> bool:
    """Store a piece, or look for the one that the device has stored; return whether it is there now."""
    if piece is None:
        return blob_store().has_piece(upload.id, offset=offset, length=length)
    return blob_store().append_piece(
        upload.id, piece, offset=offset, length=length, present_offset=lambda: _present_offset(upload.id)
    )


def _late_piece(upload: Upload, checked: CheckedManifest, offset: int, direct: bool) -> ReceivedPiece:
    """Say what became of an upload that lacks bytes its row names, or that a faster request moved on."""
    if blob_store().refresh(checked.manifest.ciphertext_digest.hex()):
        # published by a request that did not live to count it, or by a faster one
        return ReceivedPiece(upload.id, offset, upload.total_bytes, _received(checked), direct)
    if offset < _present_offset(upload.id):
        return ReceivedPiece(upload.id, offset, None, None, direct)
    raise _mismatch(blob_store().stored_bytes(upload.id, at_most=upload.offset_bytes))


def _present_offset(upload_id: uuid.UUID) -> int:
    """Return where the upload ends now; -1 where it is over."""
    offset = Upload.objects.filter(id=upload_id).values_list("offset_bytes", flat=True).first()
    return -1 if offset is None else offset


def _mismatch(offset: int) -> Refusal:
    return Refusal("upload-offset-mismatch", f"The upload ends at {offset}; go on there.", offset=offset)


def _received(checked: CheckedManifest) -> ReceivedUpdate:
    digest = checked.manifest.ciphertext_digest.hex()
    return ReceivedUpdate(checked.part, checked.manifest, checked.signed, digest)


@transaction.atomic
def record_piece(device: Device, piece: ReceivedPiece, *, now: datetime) -> dict[str, Any]:
    """Acknowledge a piece: the present offset, or with the last piece the receipt of the counted update.

    Of two requests that bring the same piece one moves the offset; the other is told where it is. Raises
    what `participation.record_update` raises.
    """
    if piece.update is not None:
        receipt = record_update(device, piece.update, now=now)
        Upload.objects.filter(id=piece.upload_id).delete()
        return {"receipt": receipt}
    moved = Upload.objects.filter(id=piece.upload_id, offset_bytes=piece.offset)
    acknowledged = piece.end is not None and moved.update(offset_bytes=piece.end)
    upload = upload_of(device, piece.upload_id)
    if acknowledged:
        _keep_lease(upload.participation, now)
    return {"offset": upload.offset_bytes} | (_address_of_next_piece(upload) if piece.direct else {})


def sweep_uploads(*, older_than_seconds: float, now: datetime) -> int:
    """Forget uploads into rounds that take none any more, and delete bytes nobody owns; return how many."""
    # Not by its deadline: one that is past and was not yet put off must not cost what has arrived.
    Upload.objects.exclude(participation__round__state=RoundState.OPEN).delete()
    running = set(Upload.objects.values_list("id", flat=True))
    return blob_store().delete_abandoned_uploads(running, older_than_seconds=older_than_seconds, now=now.timestamp())
