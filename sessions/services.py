"""The verbs of the handshake: challenge a device, activate its session, end it."""

import base64
import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, models, transaction

from audit.services import consistency_proof, current_checkpoint, record_event, witness_checkpoint
from devices import services as devices
from devices.models import Device, DeviceState
from keyring import envelope
from keyring.services import server_signer
from qflare_protocol import handshake
from qflare_protocol.encoding import digest
from qflare_protocol.epochs import EpochChain, SessionLimits, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import suite_by_name
from sessions.models import Exchange, Session, SessionState

CHALLENGE_LIFETIME = timedelta(seconds=60)
KEPT_AFTER_END = timedelta(days=1)  # longer than any M1 stays acceptable, so that a replayed one is known


def session_limits() -> SessionLimits:
    """Return what one key exchange may protect, from settings that can only lower the defaults."""
    return SessionLimits(**settings.QFLARE_SESSION_LIMITS)


def signed_server_time(suite: str, message: bytes, now: datetime) -> str:
    """Return the signed server time for a message refused for its time, as base64url text."""
    identity = server_signer("identity", suite_by_name(suite).signature)
    signed = handshake.sign_server_time(identity, bound_to=message, now=now.timestamp())
    return base64.urlsafe_b64encode(signed).decode()


def challenge_device(message: bytes, *, now: datetime) -> bytes:
    """Answer M1 with M2 and keep a pending session for a minute.

    Raises `Refusal`: "malformed-message", "authentication-failed", "device-suspended",
    "suite-refused", "invalid-key", "clock-skew", "log-inconsistent".
    """
    request = handshake.read_challenge_request(message)
    device = _authenticated_device(message, request)
    try:
        handshake.check_clock(request, now=now.timestamp())
    except Refusal as refusal:
        refusal.extensions["signed_server_time"] = signed_server_time(device.suite, message, now)
        raise
    seen = request.checkpoint
    if seen is not None:
        witness_checkpoint(device.name, seen.size, seen.root)
    checkpoint = current_checkpoint()
    if seen is not None and (checkpoint is None or seen.size > checkpoint.size):
        raise Refusal(
            "log-inconsistent", "The checkpoint you have seen was never signed by this log; tell the operator."
        )
    proof = consistency_proof(seen.size, checkpoint.size) if seen and checkpoint else []
    challenge_digest = digest("M1", message)
    if Session.objects.filter(challenge_digest=challenge_digest).exists():
        refusal = Refusal("handshake-used", "This challenge request has been answered; make a new one.")
        raise refusal.with_event("session.refused", actor="stranger", device=device.name, reason="replayed challenge")
    session_id = uuid.uuid4()
    note = checkpoint.note if checkpoint else None
    terms = handshake.Terms(session_id.bytes, now.timestamp(), session_limits(), note, proof)
    identity = server_signer("identity", suite_by_name(device.suite).signature)
    answer, pending = handshake.answer_challenge(message, request, device.registered_keys(), terms, identity)
    session = Session(
        id=session_id,
        device=device,
        suite=pending.suite,
        challenge_digest=challenge_digest,
        first_epoch=pending.epoch,
        epoch=pending.epoch,
        challenged_at=now,
        expires_at=now + CHALLENGE_LIFETIME,
    )
    session.wrapped_secret = envelope.wrap(pending.to_bytes(), **session.envelope())
    session.save(force_insert=True)
    return answer


def _authenticated_device(message: bytes, request: handshake.ChallengeRequest) -> Device:
    """Return the device that signed M1. Unknown, revoked and wrongly signed look alike from outside."""
    device = Device.objects.prefetch_related("keys").filter(id=uuid.UUID(bytes=request.device_id)).first()
    if device is None:
        raise _authentication_failed("stranger", "unknown device", str(uuid.UUID(bytes=request.device_id)))
    try:
        handshake.verify_challenge_request(message, request, device.registered_keys())
    except Refusal as refusal:
        if refusal.code != "invalid-signature":
            raise
        raise _authentication_failed("stranger", "signature by another key", device.name) from refusal
    if device.state == DeviceState.REVOKED:
        raise _authentication_failed(device.actor, "revoked device", device.name)
    if device.state == DeviceState.SUSPENDED:
        refusal = Refusal("device-suspended", "The device is suspended; ask an operator to resume it.")
        raise refusal.with_event("session.refused", actor=device.actor, device=device.name, reason="suspended device")
    return device


def _authentication_failed(actor: str, reason: str, device: str) -> Refusal:
    refusal = Refusal("authentication-failed", "The device could not be authenticated; is it enrolled here?")
    return refusal.with_event("session.refused", actor=actor, device=device, reason=reason)


def activate_session(session_id: uuid.UUID, ciphertext: bytes, confirmation: bytes, *, now: datetime) -> bytes:
    """Answer M3 with M4's MAC; from here on the session is active.

    Raises `Refusal`: "handshake-expired", "handshake-used", "authentication-failed".
    """
    with transaction.atomic():
        session, answer = _activate(session_id, ciphertext, confirmation, now)
    # Not in that transaction: it holds the session's row, and a revocation takes device before session.
    devices.note_device_seen(session.device, now=now)
    return answer


def _activate(session_id: uuid.UUID, ciphertext: bytes, confirmation: bytes, now: datetime) -> tuple[Session, bytes]:
    session = Session.objects.select_for_update(of=("self",)).select_related("device").filter(id=session_id).first()
    if session is None or session.device.state != DeviceState.ACTIVE:
        raise Refusal("handshake-expired", "There is no such challenge; start a new handshake.")
    if session.activated_at is not None:
        refusal = Refusal("handshake-used", "The challenge has been answered already; start a new handshake.")
        raise _with_session_event(refusal, session)
    if session.state != SessionState.PENDING or now >= session.expires_at:
        raise _with_session_event(
            Refusal("handshake-expired", "The challenge has expired; start a new handshake."), session
        )
    pending = handshake.PendingHandshake.from_bytes(
        envelope.unwrap(bytes(session.wrapped_secret), **session.envelope())
    )
    try:
        answer, chain = handshake.accept_response(pending, ciphertext, confirmation)
    except Refusal as refusal:
        raise _with_session_event(refusal, session) from refusal
    session.state, session.activated_at = SessionState.ACTIVE, now
    session.expires_at = now + timedelta(seconds=session_limits().lifetime_seconds)
    store_chain(session, chain)
    session.save(update_fields=("state", "activated_at", "expires_at", "wrapped_secret", "epoch"))
    record_event("session.opened", actor=session.device.actor, payload=_payload(session) | {"suite": session.suite})
    return session, answer


def store_chain(session: Session, chain: EpochChain) -> None:
    """Put the chain, wrapped, on the unsaved row."""
    session.wrapped_secret = envelope.wrap(chain.to_bytes(), **session.envelope())
    session.epoch = chain.epoch


def load_chain(session: Session) -> EpochChain:
    """Return the epoch chain of an active session."""
    return EpochChain.from_bytes(envelope.unwrap(bytes(session.wrapped_secret), **session.envelope()))


def _payload(session: Session) -> dict[str, str]:
    return {"session_id": str(session.id), "device": session.device.name}


def _with_session_event(refusal: Refusal, session: Session) -> Refusal:
    return refusal.with_event("session.refused", actor="stranger", device=session.device.name, reason=refusal.code)


@transaction.atomic
def end_session(session_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> None:
    """End a session and forget its keys; an ended session stays as it is."""
    if _end(Session.objects.filter(id=session_id), reason, now):
        session = Session.objects.select_related("device").get(id=session_id)
        record_event("session.ended", actor=actor, payload=_payload(session) | {"reason": reason})


@transaction.atomic
def revoke_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> None:
    """Revoke a device and end its sessions in one step. Raises as `devices.services.revoke_device`."""
    device = devices.revoke_device(device_id, reason=reason, actor=actor, now=now)
    _end_sessions_of(device, "device revoked", actor, now)


@transaction.atomic
def suspend_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> None:
    """Suspend a device and end its sessions in one step. Raises as `devices.services.suspend_device`."""
    device = devices.suspend_device(device_id, reason=reason, actor=actor, now=now)
    _end_sessions_of(device, "device suspended", actor, now)


def _end_sessions_of(device: Device, reason: str, actor: str, now: datetime) -> None:
    ended = _end(device.sessions, reason, now)
    if ended:
        record_event("sessions.ended", actor=actor, payload={"device": device.name, "count": ended, "reason": reason})


def _end(sessions: models.QuerySet[Session] | models.Manager[Session], reason: str, now: datetime) -> int:
    """End sessions inside the caller's transaction: forget their keys, and the answers sealed under them."""
    ids = list(sessions.exclude(state=SessionState.ENDED).values_list("id", flat=True))
    Exchange.objects.filter(session_id__in=ids).delete()
    return (
        Session.objects.filter(id__in=ids)
        .exclude(state=SessionState.ENDED)
        .update(state=SessionState.ENDED, end_reason=reason, wrapped_secret=None, ended_at=now)
    )


def sweep_sessions(*, now: datetime) -> None:
    """Forget the keys of expired sessions, move idle chains on so that old epochs are forgotten, delete old rows."""
    with transaction.atomic():
        _end(Session.objects.filter(expires_at__lte=now), "expired", now)
        Session.objects.filter(ended_at__lte=now - KEPT_AFTER_END).delete()
    idle = Session.objects.filter(state=SessionState.ACTIVE, epoch__lt=bucket_of(now.timestamp()))
    for session_id in idle.values_list("id", flat=True):
        with transaction.atomic():
            session = Session.objects.select_for_update().filter(id=session_id, state=SessionState.ACTIVE).first()
            if session is not None:
                _advance_idle(session, now)


def empty_write_ahead_log() -> None:
    """On SQLite, move the write-ahead log into the database: a key that was forgotten still stands there.

    Must be called outside of any transaction. PostgreSQL's dead rows go with its vacuum.
    """
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _advance_idle(session: Session, now: datetime) -> None:
    current = bucket_of(now.timestamp())
    if current - session.first_epoch >= session_limits().epochs:
        _end(Session.objects.filter(id=session.id), "key allowance used up", now)
        return
    chain = load_chain(session)
    store_chain(session, chain.advance(max(chain.epoch, current), now=now.timestamp()))
    session.save(update_fields=("wrapped_secret", "epoch"))


def request_reference(session_id: bytes, epoch: int, sequence: int) -> bytes:
    """Return what a signed server time is bound to when a sealed request is refused for its epoch."""
    return digest("epoch refusal", session_id, epoch.to_bytes(8, "big"), sequence.to_bytes(8, "big"))
