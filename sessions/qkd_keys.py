"""The verbs of QKD keys: reserve one for a device's next handshake, take it once, forget the rest."""

import uuid
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction

from audit.services import record_event
from devices.models import Device
from keyring import envelope
from keyring.services import SignedAnswer
from qflare_protocol.encoding import digest
from qflare_protocol.epochs import BUCKET_SECONDS
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd import QkdUnavailable, QkdUse
from qflare_protocol.qkd.etsi014 import QkdKey
from qflare_protocol.qkd.key_request import (
    QkdKeyNotice,
    QkdKeyRequest,
    answer_qkd_key_request,
    read_qkd_key_request,
    verify_qkd_key_request,
)
from sessions.device_authentication import authenticated_device
from sessions.models import ReservedQkdKey
from sessions.qkd import qkd_policy_of, server_kme_client

log = structlog.get_logger(__name__)

KEY_LIFETIME = timedelta(seconds=4 * BUCKET_SECONDS)  # longer than Q1 stays acceptable, so that a repeated one is known
MOST_KEYS = 30  # of one device within the lifetime of a key: the SAE whose keys are drawn is its own word


def reserve_qkd_key(message: bytes, *, now: datetime) -> SignedAnswer:
    """Answer Q1 with Q2: fetch a key for the device at the server's KME and keep it, wrapped, for its handshake.

    The same Q1 again names the same key. Raises `Refusal`: "malformed-message", "authentication-failed",
    "device-suspended", "server-not-authenticated", "clock-skew", "qkd-unavailable", "rate-limited".
    """
    request = read_qkd_key_request(message)
    authenticated = authenticated_device(
        message, request, lambda keys: verify_qkd_key_request(message, keys.verifier), now=now
    )
    device = authenticated.device
    request_digest = digest("QKD key request", message)
    reserved = ReservedQkdKey.objects.filter(request_digest=request_digest).first()
    if reserved is None:
        reserved = _reserve(device, request, request_digest, now)
    notice = QkdKeyNotice(reserved.key_id, settings.QFLARE_QKD_SAE_ID, int(reserved.expires_at.timestamp()))
    return SignedAnswer(answer_qkd_key_request(message, notice, authenticated.identity), authenticated.succession)


def _reserve(device: Device, request: QkdKeyRequest, request_digest: bytes, now: datetime) -> ReservedQkdKey:
    if device.reserved_qkd_keys.filter(expires_at__gt=now).count() >= MOST_KEYS:
        wait = int(KEY_LIFETIME.total_seconds())
        raise Refusal("rate-limited", "The device has drawn too many QKD keys.", retry_after_seconds=wait)
    key = _fetched_key(device, request.sae_id)
    try:
        with transaction.atomic():
            device.reserved_qkd_keys.update(wrapped_key=None)  # a device has one handshake at a time
            row = _kept(device, key, request_digest, now)
            payload = {"device": device.name, "key_id": str(key.key_id)}
            record_event("qkd_key.reserved", actor=device.actor, payload=payload)
    except IntegrityError as error:
        faster = ReservedQkdKey.objects.filter(request_digest=request_digest).first()
        if faster is None:
            raise Refusal("qkd-unavailable", "The KME gave a key that was given before; ask again.") from error
        return faster  # the same Q1 was served at the same time; the key fetched here is used by nobody
    return row


def _kept(device: Device, key: QkdKey, request_digest: bytes, now: datetime) -> ReservedQkdKey:
    row_id = uuid.uuid4()
    return ReservedQkdKey.objects.create(
        id=row_id,
        device=device,
        request_digest=request_digest,
        key_id=key.key_id,
        wrapped_key=envelope.wrap(key.key, **ReservedQkdKey.envelope(row_id)),
        expires_at=now + KEY_LIFETIME,
    )


def _fetched_key(device: Device, sae_id: str) -> QkdKey:
    if qkd_policy_of(device) == QkdUse.OFF:
        raise Refusal("qkd-unavailable", "QKD is off for the device's group; shake hands without a QKD key.")
    try:
        kme = server_kme_client()
        if kme is not None:
            return kme.enc_keys(sae_id, number=1, size_bits=256)[0]
    except QkdUnavailable as failure:
        # The sentence may name files and addresses of this host: it is for the operator.
        log.warning("qkd_key_not_fetched", device=device.name, reason=str(failure))
        raise Refusal("qkd-unavailable", "The server's key management entity gave no key; try again later.") from None
    raise Refusal("qkd-unavailable", "The server has no key management entity.")


def take_reserved_key(device: Device, key_id: bytes | None, *, now: datetime) -> bytes | None:
    """Return the QKD key that M1 names and erase it, inside the caller's transaction; None where M1 names none.

    Raises `Refusal`: "qkd-required" where the group's policy demands one, "qkd-key-refused".
    """
    if key_id is None:
        if qkd_policy_of(device) == QkdUse.REQUIRED:
            refusal = Refusal("qkd-required", "The device's group demands a QKD key; ask for one first.")
            raise refusal.with_event("session.refused", actor=device.actor, device=device.name, reason=refusal.code)
        return None
    kept = device.reserved_qkd_keys.select_for_update(of=("self",)).filter(wrapped_key__isnull=False)
    row = kept.filter(key_id=uuid.UUID(bytes=key_id), expires_at__gt=now).first()
    if row is None:
        raise _refused_key(device)
    try:
        key = envelope.unwrap(bytes(row.wrapped_key), **ReservedQkdKey.envelope(row.id))
    except envelope.EnvelopeError as error:
        raise _refused_key(device) from error
    row.wrapped_key = None
    row.save(update_fields=("wrapped_key",))
    return key


def _refused_key(device: Device) -> Refusal:
    refusal = Refusal("qkd-key-refused", "The QKD key is not kept for this device (any more); ask for another.")
    return refusal.with_event("session.refused", actor=device.actor, device=device.name, reason=refusal.code)


def forget_qkd_keys(*, now: datetime) -> None:
    """Delete the keys that nobody fetched in time, and the rows of used ones."""
    ReservedQkdKey.objects.filter(expires_at__lte=now).delete()
