"""The verbs of the handshake: challenge a device, activate its session, end it."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, models, transaction

from audit.services import consistency_proof, current_checkpoint, record_event, record_events, witness_checkpoint
from devices import services as devices
from devices.models import Device, DeviceState
from keyring import envelope
from keyring.services import SignedAnswer, server_identity
from qflare_protocol import handshake
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.encoding import digest
from qflare_protocol.epochs import EpochChain, SessionLimits, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import SeenCheckpoint
from qflare_protocol.suites import suite_by_name
from sessions.chain_cache import CHAINS
from sessions.device_authentication import authenticated_device
from sessions.models import Exchange, KeyRotationAttempt, Session, SessionState
from sessions.qkd_keys import forget_qkd_keys, take_reserved_key
from sessions.ready_keys import fresh_key_pair

CHALLENGE_LIFETIME = timedelta(seconds=60)
ENDED_AT_ONCE = 500  # expired sessions of one transaction, whose rows are locked until it ends
KEPT_AFTER_END = timedelta(days=1)  # of an unanswered challenge: longer than M1 stays acceptable, so a replay is known


def session_limits() -> SessionLimits:
    """Return what one key exchange may protect, from settings that can only lower the defaults."""
    return SessionLimits(**settings.QFLARE_SESSION_LIMITS)


def challenge_device(message: bytes, *, now: datetime) -> SignedAnswer:
    """Answer M1 with M2 and keep a pending session for a minute.

    Raises `Refusal`: "malformed-message", "authentication-failed", "device-suspended", "suite-refused",
    "invalid-key", "server-not-authenticated", "clock-skew", "log-inconsistent", "handshake-used",
    "qkd-key-refused", "qkd-required".
    """
    request = handshake.read_challenge_request(message)
    authenticated = authenticated_device(
        message, request, lambda keys: handshake.verify_challenge_request(message, request, keys), now=now
    )
    device = authenticated.device
    challenge_digest = digest("M1", message)
    if Session.objects.filter(challenge_digest=challenge_digest).exists():
        raise _replayed_challenge(device)
    checkpoint, proof = _witnessed_checkpoint(device, request.checkpoint)
    terms = handshake.Terms(
        session_id=uuid.uuid4().bytes,
        server_time=now.timestamp(),
        limits=session_limits(),
        checkpoint=checkpoint,
        consistency_proof=proof,
        current_key=authenticated.current.keys.verifier.fingerprint,
        rotate_keys=devices.make_keys_due_by_use(device, authenticated.signed_with, authenticated.current, now=now),
    )
    answer, pending = handshake.answer_challenge(
        message,
        request,
        authenticated.signed_with.keys,
        terms,
        authenticated.identity,
        ephemeral=fresh_key_pair(suite_by_name(device.suite).ephemeral_kem),
    )
    session = Session(
        id=uuid.UUID(bytes=terms.session_id),
        device=device,
        challenge_digest=challenge_digest,
        key_version=authenticated.signed_with.version,
        identity_fingerprint=authenticated.identity.fingerprint,
    )
    with transaction.atomic():
        qkd_key = take_reserved_key(device, request.qkd_key_id, now=now)
        _keep_pending(session, pending.with_qkd_key(qkd_key), now)
    return SignedAnswer(answer, authenticated.succession)


def _keep_pending(session: Session, pending: handshake.PendingHandshake, now: datetime) -> None:
    session.suite, session.qkd = pending.suite, pending.qkd_key is not None
    session.first_epoch = session.epoch = pending.epoch
    session.challenged_at, session.expires_at = now, now + CHALLENGE_LIFETIME
    session.wrapped_secret = envelope.wrap(pending.to_bytes(), **session.envelope())
    try:
        session.save(force_insert=True)
    except IntegrityError as error:  # the same M1 was faster in another process
        raise _replayed_challenge(session.device) from error


def _replayed_challenge(device: Device) -> Refusal:
    refusal = Refusal("handshake-used", "This challenge request has been answered; make a new one.")
    return refusal.with_event("session.refused", actor="stranger", device=device.name, reason="replayed challenge")


def _witnessed_checkpoint(device: Device, seen: SeenCheckpoint | None) -> tuple[str | None, list[bytes]]:
    """Return the current checkpoint's note and its proof from the one the device has seen."""
    if seen is not None:
        witness_checkpoint(device.name, seen.size, seen.root)
    checkpoint = current_checkpoint()
    if seen is not None and (checkpoint is None or seen.size > checkpoint.size):
        raise Refusal(
            "log-inconsistent", "The checkpoint you have seen was never signed by this log; tell the operator."
        )
    proof = consistency_proof(seen.size, checkpoint.size) if seen and checkpoint else []
    return checkpoint.note if checkpoint else None, proof


def activate_session(session_id: uuid.UUID, ciphertext: bytes, confirmation: bytes, *, now: datetime) -> bytes:
    """Answer M3 with M4's MAC; from here on the session is active.

    Raises `Refusal`: "handshake-expired", "handshake-used", "authentication-failed", "malformed-message"
    for a ciphertext of the wrong length or form.
    """
    with transaction.atomic():
        session, answer = _activate(session_id, ciphertext, confirmation, now)
        devices.note_keys_used(session.device_id, session.key_version)
    # Not in that transaction: the device's row would be locked for as long as the session's.
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
    if bytes(session.identity_fingerprint) != server_identity(session.suite).fingerprint:
        raise Refusal("handshake-expired", "The server's identity key was rotated; start a new handshake.")
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
    session.save(update_fields=("state", "activated_at", "expires_at", "wrapped_secret", "epoch", "past_until"))
    record_event("session.opened", actor=session.device.actor, payload=_payload(session) | _what_was_proved(session))
    return session, answer


def store_chain(session: Session, chain: EpochChain) -> None:
    """Put the chain, wrapped, on the unsaved row."""
    session.wrapped_secret = envelope.wrap(chain.to_bytes(), **session.envelope())
    session.epoch = chain.epoch
    until = max((past.until for past in chain.past), default=None)
    session.past_until = None if until is None else datetime.fromtimestamp(until, UTC)
    CHAINS.put(session.id, session.wrapped_secret, chain)


def load_chain(session: Session) -> EpochChain:
    """Return the epoch chain of an active session.

    Raises `Refusal("session-expired")` where it does not open any more, after a recovery without its data key.
    """
    wrapped = bytes(session.wrapped_secret)
    chain = CHAINS.get(session.id, wrapped)
    if chain is None:
        try:
            chain = EpochChain.from_bytes(envelope.unwrap(wrapped, **session.envelope()))
        except envelope.EnvelopeError as error:
            lost = Refusal("session-expired", "The session's keys are lost; start a new handshake.")
            raise lost.with_event(
                "request.refused", actor="system", device=session.device.name, reason="session keys do not open"
            ) from error
        CHAINS.put(session.id, wrapped, chain)
    return chain


def keys_of_session(session: Session, now: datetime) -> RegisteredKeys:
    """Return the device's keys that opened the session. Raises `Refusal("session-expired")` when they are over."""
    for key_set in session.device.key_sets(now):
        if key_set.version == session.key_version:
            return key_set.keys
    raise Refusal("session-expired", "The keys that opened this session are over; start a new handshake.")


def _what_was_proved(session: Session) -> dict[str, Any]:
    return {"suite": session.suite, "key_version": session.key_version, "qkd": session.qkd}


def _payload(session: Session) -> dict[str, str]:
    return {"session_id": str(session.id), "device": session.device.name, "device_id": str(session.device_id)}


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
    _lock_sessions(Session.objects.filter(device_id=device_id))  # before the device's row, as a sealed request does
    device = devices.revoke_device(device_id, reason=reason, actor=actor, now=now)
    _end_sessions_of(device, "device revoked", actor, now)


@transaction.atomic
def suspend_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> None:
    """Suspend a device and end its sessions in one step. Raises as `devices.services.suspend_device`."""
    _lock_sessions(Session.objects.filter(device_id=device_id))
    device = devices.suspend_device(device_id, reason=reason, actor=actor, now=now)
    _end_sessions_of(device, "device suspended", actor, now)


@transaction.atomic
def end_sessions_of_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> int:
    """End every session of a device: it shakes hands anew. Return how many ended. Raises `Refusal("not-found")`."""
    device = Device.objects.filter(id=device_id).first()
    if device is None:
        raise Refusal("not-found", "There is no such device.")
    return _end_sessions_of(device, reason, actor, now)


@transaction.atomic
def end_all_sessions(*, reason: str, actor: str, now: datetime) -> int:
    """End every session there is: each device shakes hands anew. Return how many ended."""
    ended = _end(Session.objects.all(), reason, now)
    if ended:
        payload = {"device": "every device", "count": ended, "reason": reason}
        record_event("sessions.ended", actor=actor, payload=payload)
    return ended


def _end_sessions_of(device: Device, reason: str, actor: str, now: datetime) -> int:
    ended = _end(device.sessions, reason, now)
    if ended:
        record_event("sessions.ended", actor=actor, payload={"device": device.name, "count": ended, "reason": reason})
    return ended


def _end(sessions: models.QuerySet[Session] | models.Manager[Session], reason: str, now: datetime) -> int:
    """End sessions inside the caller's transaction: forget their keys, and the answers sealed under them."""
    ids = _lock_sessions(sessions)
    Exchange.objects.filter(session_id__in=ids).delete()
    return (
        Session.objects.filter(id__in=ids)
        .exclude(state=SessionState.ENDED)
        .update(
            state=SessionState.ENDED,
            end_reason=reason,
            wrapped_secret=None,
            wrapped_offer=None,
            offer_expires_at=None,
            ended_at=now,
        )
    )


def _lock_sessions(
    sessions: models.QuerySet[Session] | models.Manager[Session], at_most: int | None = None
) -> list[uuid.UUID]:
    """Lock the sessions that have not ended, in a fixed order, and return their ids."""
    open_sessions = sessions.exclude(state=SessionState.ENDED).select_for_update(of=("self",)).order_by("id")
    return list(open_sessions.values_list("id", flat=True)[:at_most])


def sweep_sessions(*, now: datetime) -> None:
    """Forget what is over: keys of expired sessions, unanswered offers, old epochs of idle sessions.

    Challenges that nobody answered are deleted after a day; sessions wait for `sessions.archiving`.

    One transaction a step: held together, the rows of one step would be locked while the next waits for its own.
    """
    while _end_expired(now) == ENDED_AT_ONCE:
        pass
    Session.objects.filter(activated_at=None, ended_at__lte=now - KEPT_AFTER_END).delete()
    _erase_old_offers(now)
    KeyRotationAttempt.objects.filter(expires_at__lte=now).delete()
    forget_qkd_keys(now=now)
    stale = models.Q(epoch__lt=bucket_of(now.timestamp())) | models.Q(past_until__lte=now)
    idle = Session.objects.filter(stale, state=SessionState.ACTIVE)
    for session_id in idle.values_list("id", flat=True):
        with transaction.atomic():
            held = Session.objects.select_for_update(of=("self",)).select_related("device")
            session = held.filter(id=session_id, state=SessionState.ACTIVE).first()
            if session is not None:
                _advance_idle(session, now)


@transaction.atomic
def _end_expired(now: datetime) -> int:
    """End some of what has expired, and return how many; a challenge nobody answered was no session: no event."""
    ids = _lock_sessions(Session.objects.filter(expires_at__lte=now), ENDED_AT_ONCE)
    expired = Session.objects.filter(id__in=ids)
    over = list(expired.exclude(activated_at=None).select_related("device"))
    _end(expired, "expired", now)
    payloads = [_payload(session) | {"reason": "expired"} for session in over]
    record_events("session.ended", actor="system", payloads=payloads)
    return len(ids)


@transaction.atomic
def _erase_old_offers(now: datetime) -> None:
    waiting = Session.objects.filter(id__in=_lock_sessions(Session.objects.filter(offer_expires_at__lte=now)))
    waiting.update(wrapped_offer=None, offer_expires_at=None)


def empty_write_ahead_log() -> None:
    """On SQLite, move the write-ahead log into the database: a key that was forgotten still stands there.

    Must be called outside of any transaction. PostgreSQL's dead rows go with its vacuum.
    """
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _advance_idle(session: Session, now: datetime) -> None:
    current = bucket_of(now.timestamp())
    if current - session.first_epoch > session_limits().epochs:  # one bucket more, in which a rekey is still taken
        end_session(session.id, reason="key allowance used up", actor="system", now=now)
        return
    try:
        chain = load_chain(session)
    except Refusal:
        end_session(session.id, reason="keys lost", actor="system", now=now)
        return
    store_chain(session, chain.advance(max(chain.epoch, current), now=now.timestamp()))
    session.save(update_fields=("wrapped_secret", "epoch", "past_until"))
