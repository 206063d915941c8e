"""The verbs of the device registry."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Max, Q

from audit.services import record_event
from devices.labels import checked_labels
from devices.models import Device, DeviceKey, DeviceState, KeyPurpose, KeySet
from devices.prepared_statements import database_value, writing_cursor
from qflare_protocol.cose import key_fingerprint
from qflare_protocol.device_keys import RegisteredKeys
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import suite_by_name

MOST_SETS_IN_OVERLAP = 2
SEEN_RESOLUTION = timedelta(seconds=30)
_SEEN = f"UPDATE {Device._meta.db_table} SET last_seen_at = %s WHERE id = %s"  # noqa: S608 - our own name


def register_device(name: str, group: str, keys: RegisteredKeys, *, now: datetime) -> Device:
    """Create an active device with its public keys, inside the caller's transaction.

    Raises `Refusal`: "device-name-taken", "key-already-registered".
    """
    try:
        with transaction.atomic():
            device = Device.objects.create(
                name=name, group=group, suite=keys.suite, state_changed_at=now, enrolled_at=now, keys_due_at=_due(now)
            )
    except IntegrityError as error:
        raise Refusal(
            "device-name-taken", f"A device named {name} is already enrolled; choose another name."
        ) from error
    _create_keys(device, keys, version=1, now=now)
    record_event(
        "device.enrolled",
        actor=device.actor,
        payload=_key_payload(device, keys) | {"group": group, "suite": keys.suite},
    )
    return device


def reenrol_device(device_id: uuid.UUID, keys: RegisteredKeys, *, now: datetime) -> Device:
    """Give a revoked device new keys and let it work again, inside the caller's transaction.

    Its history stays; of its earlier keys none is valid any more. Raises `Refusal`: "conflict" for a
    device that is not revoked, "key-already-registered".
    """
    revoked = Device.objects.filter(id=device_id, state=DeviceState.REVOKED)
    changed = revoked.update(
        state=DeviceState.ACTIVE,
        state_reason="enrolled again",
        state_changed_at=now,
        enrolled_at=now,
        keys_due_at=_due(now),
        suite=keys.suite,
    )
    if not changed:
        raise Refusal("conflict", "The device is not revoked; revoke it before it enrols again.")
    device = Device.objects.get(id=device_id)
    version = _end_keys(device, now=now)
    _create_keys(device, keys, version=version + 1, now=now)
    record_event("device.reenrolled", actor=device.actor, payload=_key_payload(device, keys) | {"suite": keys.suite})
    return device


@transaction.atomic
def rotate_device_keys(device_id: uuid.UUID, keys: RegisteredKeys, *, now: datetime) -> datetime:
    """Make new keys the device's current ones; return until when its old ones stay valid.

    Raises `Refusal`: "conflict" for a device that is not active, or that rotates unasked while two earlier
    sets are in their overlap, "key-already-registered".
    """
    device = Device.objects.select_for_update(no_key=True).filter(id=device_id, state=DeviceState.ACTIVE).first()
    if device is None:
        raise Refusal("conflict", "The device is not active; its keys stay as they are.")
    _make_room(device, now=now)
    overlap_ends = now + timedelta(seconds=settings.QFLARE_DEVICE_KEYS["overlap_seconds"])
    version = _end_keys(device, now=overlap_ends)
    _create_keys(device, keys, version=version + 1, now=now)
    Device.objects.filter(id=device_id).update(keys_due_at=_due(now))
    payload = _key_payload(device, keys) | {"version": version + 1, "overlap_ends": overlap_ends.isoformat()}
    record_event("device.keys_rotated", actor=device.actor, payload=payload)
    return overlap_ends


@transaction.atomic
def demand_key_rotation(device_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> Device:
    """Have an active device register new keys before it does anything else.

    Raises `Refusal`: "not-found", "conflict" without a reason or for a device that is not active.
    """
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    device = Device.objects.filter(id=device_id).first()
    if device is None:
        raise Refusal("not-found", "There is no such device.")
    if not Device.objects.filter(id=device_id, state=DeviceState.ACTIVE).update(keys_due_at=now):
        raise Refusal("conflict", f"The device is {device.state}; only an active one can make new keys.")
    payload = {"device_id": str(device.id), "device": device.name, "reason": reason.strip()}
    record_event("device.key_rotation_demanded", actor=actor, payload=payload)
    return device


@transaction.atomic
def withdraw_key_demand(
    device_id: uuid.UUID, *, demanded_at: datetime, due_at: datetime, reason: str, actor: str, now: datetime
) -> Device:
    """Take back a demand for new keys that the device has not met: they are due at `due_at` again.

    Raises `Refusal`: "not-found", "conflict" without a reason or where that demand does not stand any more.
    """
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    device = Device.objects.filter(id=device_id).first()
    if device is None:
        raise Refusal("not-found", "There is no such device.")
    if not Device.objects.filter(id=device_id, keys_due_at=demanded_at).update(keys_due_at=due_at):
        raise Refusal("conflict", "The device has made new keys since, or they were demanded again.")
    payload = {"device_id": str(device.id), "device": device.name, "reason": reason.strip()}
    record_event("device.key_demand_withdrawn", actor=actor, payload=payload, now=now)
    return device


@transaction.atomic
def make_keys_due_by_use(device: Device, signed_with: KeySet, current: KeySet, *, now: datetime) -> bool:
    """Make new keys due with the handshake that reaches the limit of uses; return whether they are due at all."""
    if device.must_rotate_keys(now):
        return True
    limit = settings.QFLARE_DEVICE_KEYS["sessions"]
    if current.sessions_opened + (signed_with.version == current.version) < limit:
        return False
    # Keys that were registered at this moment have opened nothing yet.
    still_current = DeviceKey.objects.filter(version=current.version, valid_until=None).values("device_id")
    due = Device.objects.filter(id=device.id, id__in=still_current, keys_due_at__gt=now).update(keys_due_at=now)
    if due:
        payload = {"device_id": str(device.id), "device": device.name, "sessions": limit}
        record_event("device.keys_due", actor="system", payload=payload)
    return True


def note_keys_used(device_id: uuid.UUID, version: int) -> None:
    """Count a handshake that a key version authenticated."""
    used = DeviceKey.objects.filter(device_id=device_id, purpose=KeyPurpose.SIGNATURE, version=version)
    used.update(sessions_opened=F("sessions_opened") + 1)


def _due(now: datetime) -> datetime:
    return now + timedelta(days=settings.QFLARE_DEVICE_KEYS["days"])


def _make_room(device: Device, *, now: datetime) -> None:
    """Keep the sets in their overlap few; a rotation that is due ends the oldest: refused, it would bar the device."""
    in_overlap = device.keys.filter(purpose=KeyPurpose.SIGNATURE, valid_until__gt=now).order_by("version")
    versions = list(in_overlap.values_list("version", flat=True))
    if len(versions) < MOST_SETS_IN_OVERLAP:
        return
    if not device.must_rotate_keys(now):
        raise Refusal("conflict", f"{len(versions)} earlier key sets are in their overlap; wait until one has ended.")
    device.keys.filter(version=versions[0]).update(valid_until=now)


def _end_keys(device: Device, *, now: datetime) -> int:
    """End every key of the device that would stay valid for longer; return the highest version so far."""
    device.keys.filter(Q(valid_until=None) | Q(valid_until__gt=now)).update(valid_until=now)
    return int(device.keys.aggregate(highest=Max("version"))["highest"])


def _create_keys(device: Device, keys: RegisteredKeys, *, version: int, now: datetime) -> None:
    try:
        with transaction.atomic():
            DeviceKey.objects.bulk_create(_key_rows(device, keys, version, now))
    except IntegrityError as error:
        raise Refusal(
            "key-already-registered", "A key of this request is registered already; make new keys."
        ) from error


def _key_payload(device: Device, keys: RegisteredKeys) -> dict[str, Any]:
    return {
        "device_id": str(device.id),
        "device": device.name,
        "kem_key": keys.kem_fingerprint.hex(),
        "signature_key": keys.verifier.fingerprint.hex(),
    }


def _key_rows(device: Device, keys: RegisteredKeys, version: int, now: datetime) -> list[DeviceKey]:
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
            version=version,
            valid_from=now,
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


@transaction.atomic
def set_device_labels(device_id: uuid.UUID, labels: dict[str, str], *, actor: str) -> Device:
    """Give a device these labels and no others.

    Raises `Refusal`: "not-found", "malformed-message" for labels out of form.
    """
    checked = checked_labels(labels)
    Device.objects.filter(id=device_id).update(labels=checked)
    device = Device.objects.filter(id=device_id).first()
    if device is None:
        raise Refusal("not-found", "There is no such device.")
    payload = {"device_id": str(device.id), "device": device.name, "labels": checked}
    record_event("device.labelled", actor=actor, payload=payload)
    return device


def note_device_seen(device: Device, *, now: datetime) -> None:
    """Remember that the device was heard, to half a minute; not an audited change."""
    if device.last_seen_at is None or now - device.last_seen_at >= SEEN_RESOLUTION:
        seen = database_value(Device._meta.get_field("last_seen_at"), now)
        with writing_cursor() as cursor:
            cursor.execute(_SEEN, [seen, database_value(Device._meta.pk, device.id)])
