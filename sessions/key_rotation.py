"""The verbs of key rotation: a device's new keys inside its session, and the server's own identity key."""

import uuid
from datetime import datetime, timedelta

from django.db import transaction

from audit.services import record_event
from devices.models import Device
from devices.services import rotate_device_keys
from keyring import envelope
from keyring.services import rotate_server_key, server_identity
from qflare_protocol import key_rotation
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.errors import Refusal
from sessions.models import KeyRotationAttempt, Session
from sessions.services import end_all_sessions, keys_of_session

ATTEMPT_LIFETIME = timedelta(minutes=2)


@transaction.atomic
def begin_key_rotation(
    device: Device, session_id: uuid.UUID, request: key_rotation.RotationRequest, *, now: datetime
) -> bytes:
    """Answer K1 with K2; the device's keys stay as they are until `finish_key_rotation`.

    The old key that authorises is the one that opened the session. Raises `Refusal`: those of
    `qflare_protocol.key_rotation.read_rotation`, "session-expired".
    """
    session = Session.objects.select_related("device").get(id=session_id)
    new = key_rotation.read_rotation(
        request, device_id=device.id.bytes, session_id=session_id.bytes, registered=keys_of_session(session, now)
    )
    attempt_id = uuid.uuid4()
    challenge = key_rotation.make_rotation_challenge(
        request, new, identity=server_identity(device.suite), attempt=attempt_id.bytes
    )
    device.key_rotation_attempts.all().delete()  # the device has begun anew
    KeyRotationAttempt.objects.create(
        id=attempt_id,
        device=device,
        kem_key=new.kem_public,
        signature_key=new.signature_public,
        wrapped_state=envelope.wrap(challenge.secret_state, **KeyRotationAttempt.envelope(attempt_id)),
        expires_at=now + ATTEMPT_LIFETIME,
    )
    return challenge.message


@transaction.atomic
def finish_key_rotation(device: Device, attempt_id: bytes, confirmation: bytes, *, now: datetime) -> bytes:
    """Answer K3 with K4: from here on the new keys are the device's current ones.

    Raises `Refusal`: "key-rotation-refused", "key-already-registered", "conflict".
    """
    attempts = device.key_rotation_attempts.select_for_update(of=("self",))
    attempt = attempts.filter(id=uuid.UUID(bytes=attempt_id), expires_at__gt=now).first()
    if attempt is None:
        raise Refusal("key-rotation-refused", "There is no such rotation, or it has expired; start it again.")
    try:
        state = envelope.unwrap(bytes(attempt.wrapped_state), **KeyRotationAttempt.envelope(attempt.id))
    except envelope.EnvelopeError as error:
        raise Refusal("key-rotation-refused", "The rotation's keys are lost; start it again.") from error
    key_rotation.check_rotation_response(state, confirmation)
    new = RegisteredKeys(device.suite, bytes(attempt.kem_key), bytes(attempt.signature_key))
    overlap_ends = rotate_device_keys(device.id, new, now=now)
    attempt.delete()
    return key_rotation.make_rotation_confirmation(
        state,
        new,
        identity=server_identity(device.suite),
        valid_from=int(now.timestamp()),
        predecessor_valid_until=int(overlap_ends.timestamp()),
    )


@transaction.atomic
def rotate_identity_key(algorithm: str, *, reason: str, actor: str, now: datetime) -> bytes:
    """Replace the server's identity key of an algorithm and return the fingerprint of the new one.

    The old key signs its successor and is destroyed; every session ends, so that each device meets the
    new key in a handshake and follows. Raises `Refusal`: "conflict" without a reason.
    """
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    old, new = rotate_server_key("identity", algorithm, now=now)
    payload = {
        "algorithm": algorithm, "old": old.fingerprint.hex(), "new": new.fingerprint.hex(), "reason": reason.strip(),
    }  # fmt: skip
    record_event("identity_key.rotated", actor=actor, payload=payload)
    end_all_sessions(reason="server identity key rotated", actor=actor, now=now)
    return new.fingerprint
