"""The registry of devices: who may take part, with which keys, in which state."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import Q

from operator_admin.party import Party
from qflare_protocol.cose import Verifier
from qflare_protocol.device_keys import RegisteredKeys

KEYS_AT_ONCE = 1000


class DeviceState(models.TextChoices):
    """What a device may do. A revoked one comes back only with a token made for it, and with new keys."""

    ACTIVE = "active", "Active"
    SUSPENDED = "suspended", "Suspended"
    REVOKED = "revoked", "Revoked"


class Device(models.Model):
    """One enrolled edge device."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    group = models.CharField(max_length=100, blank=True, help_text="Hospital, site or fleet the device belongs to.")
    labels = models.JSONField(default=dict, blank=True, help_text="By which federations choose whom they invite.")
    suite = models.CharField(max_length=20)
    state = models.CharField(max_length=20, choices=DeviceState.choices, default=DeviceState.ACTIVE)
    state_reason = models.CharField(max_length=500, blank=True)
    state_changed_at = models.DateTimeField()
    enrolled_at = models.DateTimeField(db_index=True)
    last_seen_at = models.DateTimeField(null=True, blank=True, db_index=True)
    keys_due_at = models.DateTimeField(help_text="From then on the device must register new keys before it works.")

    # DRF asks its principal for this; a device is only ever the principal of an opened request.
    is_authenticated: ClassVar[bool] = True

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=Q(state__in=DeviceState.values), name="device_state_known"),
            models.CheckConstraint(condition=~Q(name=""), name="device_has_a_name"),
        )
        # `last_seen_at` has one too, for the devices that fell silent; it is written at most once in `SEEN_RESOLUTION`.
        indexes = (
            models.Index(fields=("state", "-state_changed_at"), name="device_by_state"),
            models.Index(fields=("state", "keys_due_at"), name="device_keys_due"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def actor(self) -> str:
        """How the audit log names this device."""
        return Party("device", self.name, self.id)

    def key_sets(self, now: datetime) -> list["KeySet"]:
        """Return the key sets that are valid now, the current one first and those in their overlap after it."""
        return _key_sets(self.suite, self.keys.valid(now).order_by())

    @classmethod
    def with_key_sets(cls, device_id: uuid.UUID, now: datetime) -> "tuple[Device, list[KeySet]] | None":
        """Return a device and its valid key sets in one query, or None where it is unknown."""
        keys = list(DeviceKey.objects.valid(now).filter(device_id=device_id).select_related("device").order_by())
        return (keys[0].device, _key_sets(keys[0].device.suite, keys)) if keys else None

    def must_rotate_keys(self, now: datetime) -> bool:
        """Say whether the device has to register new keys before anything else."""
        return self.keys_due_at <= now


@dataclass(frozen=True)
class KeySet:
    """The two keys a device registered together; `valid_until` is None for the current set."""

    version: int
    keys: RegisteredKeys
    valid_until: datetime | None
    sessions_opened: int


def _key_sets(suite: str, keys: "Iterable[DeviceKey]") -> list[KeySet]:
    rows: dict[int, dict[str, DeviceKey]] = {}
    for key in keys:
        rows.setdefault(key.version, {})[key.purpose] = key
    return [
        KeySet(
            version,
            RegisteredKeys(suite, bytes(row[KeyPurpose.KEM].public_key), bytes(row[KeyPurpose.SIGNATURE].public_key)),
            row[KeyPurpose.SIGNATURE].valid_until,
            row[KeyPurpose.SIGNATURE].sessions_opened,
        )
        for version, row in sorted(rows.items(), reverse=True)
    ]


class KeyPurpose(models.TextChoices):
    """What a registered key is for."""

    KEM = "kem", "Key encapsulation"
    SIGNATURE = "signature", "Signature"


class DeviceKeyQuerySet(models.QuerySet["DeviceKey"]):
    """Reads that several services share."""

    def valid(self, now: datetime) -> "DeviceKeyQuerySet":
        """Keys that are valid now: the current ones and those in their overlap."""
        return self.filter(Q(valid_until=None) | Q(valid_until__gt=now))

    def current_signature_keys(self, device_ids: Sequence[uuid.UUID]) -> "list[DeviceKey]":
        """Return the current signature key of each of these devices, in their order, asked for by the thousand."""
        current, found = self.filter(purpose=KeyPurpose.SIGNATURE, valid_until=None), {}
        for first in range(0, len(device_ids), KEYS_AT_ONCE):
            batch = device_ids[first : first + KEYS_AT_ONCE]
            found |= {key.device_id: key for key in current.filter(device_id__in=batch)}
        return [found[device_id] for device_id in device_ids]


class DeviceKey(models.Model):
    """A public key of a device. Both keys of one version were registered together; the current version has no end.

    `sessions_opened` counts, on the signature key, the handshakes that the version has authenticated.
    """

    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="keys")
    purpose = models.CharField(max_length=20, choices=KeyPurpose.choices)
    algorithm = models.CharField(max_length=40)
    public_key = models.BinaryField()
    fingerprint = models.BinaryField(unique=True, max_length=32)
    version = models.PositiveIntegerField(default=1)
    valid_from = models.DateTimeField(db_index=True)
    valid_until = models.DateTimeField(null=True, blank=True)
    sessions_opened = models.PositiveBigIntegerField(default=0)

    objects = DeviceKeyQuerySet.as_manager()

    class Meta:
        ordering = ("device", "purpose", "-version")
        constraints = (
            models.CheckConstraint(condition=Q(purpose__in=KeyPurpose.values), name="device_key_purpose_known"),
            models.UniqueConstraint(
                fields=("device", "purpose"), condition=Q(valid_until=None), name="one_current_key_per_purpose"
            ),
            models.UniqueConstraint(fields=("device", "purpose", "version"), name="one_key_per_purpose_and_version"),
            models.CheckConstraint(
                condition=Q(valid_until=None) | Q(valid_until__gte=models.F("valid_from")),
                name="key_ends_after_it_began",
            ),
        )

    def __str__(self) -> str:
        return f"{self.algorithm} {bytes(self.fingerprint).hex()[:16]}"

    @property
    def verifier(self) -> Verifier:
        """The key that checks signatures, of a signature key."""
        return Verifier(self.algorithm, bytes(self.public_key))
