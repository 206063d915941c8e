"""Who signed an unsealed message: the device and the key set, or one refusal for every kind of stranger."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from devices.models import Device, DeviceState, KeySet
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.errors import Refusal


@dataclass(frozen=True)
class AuthenticatedDevice:
    """An active device, the key set with which it signed, and its current one where that is another."""

    device: Device
    signed_with: KeySet
    current: KeySet


def authenticated_device(
    device_id: bytes, signer: bytes, verify: Callable[[RegisteredKeys], None], *, now: datetime
) -> AuthenticatedDevice:
    """Return the active device whose valid key `signer` (a fingerprint) signed what `verify` checks.

    Unknown, revoked and wrongly signed look alike from outside, and so does a key whose overlap is over.
    Raises `Refusal`: "authentication-failed", "device-suspended", and what `verify` raises beside
    "invalid-signature".
    """
    known = Device.with_key_sets(uuid.UUID(bytes=device_id), now)
    if known is None:
        raise _authentication_failed("stranger", "unknown device", str(uuid.UUID(bytes=device_id)))
    device, key_sets = known
    key_set = next((held for held in key_sets if held.keys.verifier.fingerprint == signer), None)
    if key_set is None:
        raise _authentication_failed("stranger", "signature by another key", device.name)
    try:
        verify(key_set.keys)
    except Refusal as refusal:
        if refusal.code != "invalid-signature":
            raise
        raise _authentication_failed("stranger", "signature by another key", device.name) from refusal
    if device.state == DeviceState.REVOKED:
        raise _authentication_failed(device.actor, "revoked device", device.name)
    if device.state == DeviceState.SUSPENDED:
        refusal = Refusal("device-suspended", "The device is suspended; ask an operator to resume it.")
        raise refusal.with_event("session.refused", actor=device.actor, device=device.name, reason="suspended device")
    return AuthenticatedDevice(device, key_set, key_sets[0])


def _authentication_failed(actor: str, reason: str, device: str) -> Refusal:
    refusal = Refusal("authentication-failed", "The device could not be authenticated; is it enrolled here?")
    return refusal.with_event("session.refused", actor=actor, device=device, reason=reason)
