"""Who signed an unsealed message: the device and the key set, or one refusal for every kind of stranger."""

import uuid
from collections.abc import Callable
from datetime import datetime

from devices.models import Device, DeviceState, KeySet
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.errors import Refusal


def authenticated_device(
    device_id: bytes, signer: bytes, verify: Callable[[RegisteredKeys], None], *, now: datetime
) -> tuple[Device, KeySet]:
    """Return the active device whose valid key `signer` (a fingerprint) signed what `verify` checks.

    Unknown, revoked and wrongly signed look alike from outside, and so does a key whose overlap is over.
    Raises `Refusal`: "authentication-failed", "device-suspended", and what `verify` raises beside
    "invalid-signature".
    """
    device = Device.with_valid_keys(now).filter(id=uuid.UUID(bytes=device_id)).first()
    if device is None:
        raise _authentication_failed("stranger", "unknown device", str(uuid.UUID(bytes=device_id)))
    key_set = next((held for held in device.key_sets(now) if held.keys.verifier.fingerprint == signer), None)
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
    return device, key_set


def _authentication_failed(actor: str, reason: str, device: str) -> Refusal:
    refusal = Refusal("authentication-failed", "The device could not be authenticated; is it enrolled here?")
    return refusal.with_event("session.refused", actor=actor, device=device, reason=reason)
