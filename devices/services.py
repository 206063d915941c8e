"""The verbs of the device registry."""

import uuid
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from audit.services import record_event
from devices.models import Device, DeviceKey, DeviceState, KeyPurpose
from qflare_protocol.cose import key_fingerprint
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import suite_by_name

SEEN_RESOLUTION = timedelta(seconds=30)


def register_device(name: str, group: str, keys: RegisteredKeys, *, now: datetime) -> Device:
    """Create an active device with its public keys, inside the caller's transaction.

    Raises `Refusal`: "device-name-taken", "key-already-registered".
    """
    try:
        with transaction.atomic():
            device = Device.objects.create(
                name=name, group=group, suite=keys.suite, state_changed_at=now, enrolled_at=now
            )
    except IntegrityError as error:
        raise Refusal(
            "device-name-taken", f"A device named {name} is already enrolled; choose another name."
        ) from error
    try:
        with transaction.atomic():
            DeviceKey.objects.bulk_create(_key_rows(device, keys, now))
    except IntegrityError as error:
        raise Refusal(
            "key-already-registered", "A key of this request is registered already; make new keys."
        ) from error
    record_event(
        "device.enrolled",
        actor=device.actor,
        payload={
            "device_id": str(device.id),
            "device": name,
            "group": group,
            "suite": keys.suite,
            "kem_key": keys.kem_fingerprint.hex(),
            "signature_key": keys.verifier.fingerprint.hex(),
        },
    )
    return device


def _key_rows(device: Device, keys: RegisteredKeys, now: datetime) -> list[DeviceKey]:
    suite = suite_by_name(keys.suite)
    members = (
        (KeyPurpose.KEM, suite.registered_kem, keys.kem_public),
        (KeyPurpose.SIGNATURE, suite.signature, keys.signature_public),
    )
    return [
        DeviceKey(
            device=device,
            purpose=purpose,
            algorithm=algorithm,
            public_key=public,
            fingerprint=key_fingerprint(algorithm, public),
            registered_at=now,
        )
        for purpose, algorithm, public in members
    ]


def suspend_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> Device:
    """Bar an active device until it is resumed. Raises `Refusal("conflict")` from another state."""
    return _change_state(device_id, {DeviceState.ACTIVE}, DeviceState.SUSPENDED, reason, actor, now)


def resume_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> Device:
    """Let a suspended device work again. Raises `Refusal("conflict")` from another state."""
    return _change_state(device_id, {DeviceState.SUSPENDED}, DeviceState.ACTIVE, reason, actor, now)


def revoke_device(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> Device:
    """Bar a device for good. Raises `Refusal("conflict")` when it is revoked already."""
    return _change_state(
        device_id, {DeviceState.ACTIVE, DeviceState.SUSPENDED}, DeviceState.REVOKED, reason, actor, now
    )


@transaction.atomic
def _change_state(
    device_id: uuid.UUID, origins: set[DeviceState], target: DeviceState, reason: str, actor: str, now: datetime
) -> Device:
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    changed = Device.objects.filter(id=device_id, state__in=origins).update(
        state=target, state_reason=reason.strip(), state_changed_at=now
    )
    device = Device.objects.filter(id=device_id).first()
    if device is None:
        raise Refusal("not-found", "There is no such device.")
    if not changed:
        raise Refusal("conflict", f"The device is {device.state}; it cannot become {target.value} from there.")
    verb = {DeviceState.ACTIVE: "resumed", DeviceState.SUSPENDED: "suspended", DeviceState.REVOKED: "revoked"}[target]
    record_event(
        f"device.{verb}",
        actor=actor,
        payload={"device_id": str(device.id), "device": device.name, "reason": reason.strip()},
    )
    return device


def note_device_seen(device: Device, *, now: datetime) -> None:
    """Remember that the device was heard, to half a minute; not an audited change."""
    if device.last_seen_at is None or now - device.last_seen_at >= SEEN_RESOLUTION:
        Device.objects.filter(id=device.id).update(last_seen_at=now)
