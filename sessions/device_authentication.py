"""Who signed an unsealed message: the device and the key set, or one refusal for every kind of stranger."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from structlog.contextvars import bind_contextvars

from devices.models import Device, DeviceState, KeySet
from keyring.services import identity_succession, server_identity
from qflare_protocol.cose import Signer
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import check_clock
from sessions.server_time import with_server_time


class SignedRequest(Protocol):
    """What M1 and Q1 have in common."""

    device_id: bytes
    signer: bytes
    bucket: int
    server_identity: bytes


@dataclass(frozen=True)
class AuthenticatedDevice:
    """An active device, the key set with which it signed, and its current one where that is another.

    `identity` is the key that answers it, `succession` leads there from the identity key that the device pins.
    """

    device: Device
    signed_with: KeySet
    current: KeySet
    identity: Signer
    succession: list[bytes]


def authenticated_device(
    message: bytes, request: SignedRequest, verify: Callable[[RegisteredKeys], None], *, now: datetime
) -> AuthenticatedDevice:
    """Return the active device that signed M1 or Q1 at about this time; `verify` checks its signature.

    Unknown, revoked and wrongly signed look alike from outside, and so does a key whose overlap is over.
    Raises `Refusal`: "authentication-failed", "device-suspended", "server-not-authenticated",
    "clock-skew" with the signed time, and what `verify` raises beside "invalid-signature".
    """
    device, signed_with, current = _device_of(request, verify, now)
    identity = server_identity(device.suite)
    succession = identity_succession(request.server_identity, identity.verifier)
    try:
        check_clock(request.bucket, now=now.timestamp())
    except Refusal as refusal:
        refusal.with_event("session.refused", actor=device.actor, device=device.name, reason=refusal.code)
        raise with_server_time(refusal, device.suite, message, now=now, succession=succession) from None
    return AuthenticatedDevice(device, signed_with, current, identity, succession)


def _device_of(
    request: SignedRequest, verify: Callable[[RegisteredKeys], None], now: datetime
) -> tuple[Device, KeySet, KeySet]:
    known = Device.with_key_sets(uuid.UUID(bytes=request.device_id), now)
    if known is None:
        raise _authentication_failed("stranger", "unknown device", str(uuid.UUID(bytes=request.device_id)))
    device, key_sets = known
    key_set = next((held for held in key_sets if held.keys.verifier.fingerprint == request.signer), None)
    if key_set is None:
        raise _authentication_failed("stranger", "signature by another key", device.name)
    try:
        verify(key_set.keys)
    except Refusal as refusal:
        if refusal.code != "invalid-signature":
            raise
        raise _authentication_failed("stranger", "signature by another key", device.name) from refusal
    bind_contextvars(device=device.name, device_id=str(device.id))
    if device.state == DeviceState.REVOKED:
        raise _authentication_failed(device.actor, "revoked device", device.name)
    if device.state == DeviceState.SUSPENDED:
        refusal = Refusal("device-suspended", "The device is suspended; ask an operator to resume it.")
        raise refusal.with_event("session.refused", actor=device.actor, device=device.name, reason="suspended device")
    return device, key_set, key_sets[0]


def _authentication_failed(actor: str, reason: str, device: str) -> Refusal:
    refusal = Refusal("authentication-failed", "The device could not be authenticated; is it enrolled here?")
    return refusal.with_event("session.refused", actor=actor, device=device, reason=reason)
