"""The registry of devices: who may take part, with which keys, in which state."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q

from qflare_protocol.device_keys import RegisteredKeys


class DeviceState(models.TextChoices):
    """What a device may do. Revocation is final: the device enrols again under a new id."""

    ACTIVE = "active", "Active"
    SUSPENDED = "suspended", "Suspended"
    REVOKED = "revoked", "Revoked"


class Device(models.Model):
    """One enrolled edge device."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    group = models.CharField(max_length=100, blank=True, help_text="Hospital, site or fleet the device belongs to.")
    suite = models.CharField(max_length=20)
    state = models.CharField(max_length=20, choices=DeviceState.choices, default=DeviceState.ACTIVE)
    state_reason = models.CharField(max_length=500, blank=True)
    state_changed_at = models.DateTimeField()
    enrolled_at = models.DateTimeField()
    last_seen_at = models.DateTimeField(null=True, blank=True)

    # DRF asks its principal for this; a device is only ever the principal of an opened request.
    is_authenticated: ClassVar[bool] = True

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=Q(state__in=DeviceState.values), name="device_state_known"),
            models.CheckConstraint(condition=~Q(name=""), name="device_has_a_name"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def actor(self) -> str:
        """How the audit log names this device."""
        return f"device:{self.name}"

    def registered_keys(self) -> RegisteredKeys:
        """Return the live public keys of the device."""
        live = {key.purpose: bytes(key.public_key) for key in self.keys.all() if key.retired_at is None}
        return RegisteredKeys(self.suite, live[KeyPurpose.KEM], live[KeyPurpose.SIGNATURE])


class KeyPurpose(models.TextChoices):
    """What a registered key is for."""

    KEM = "kem", "Key encapsulation"
    SIGNATURE = "signature", "Signature"


class DeviceKey(models.Model):
    """A public key of a device, live until it is retired."""

    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="keys")
    purpose = models.CharField(max_length=20, choices=KeyPurpose.choices)
    algorithm = models.CharField(max_length=40)
    public_key = models.BinaryField()
    fingerprint = models.BinaryField(unique=True, max_length=32)
    registered_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("device", "purpose", "-registered_at")
        constraints = (
            models.CheckConstraint(condition=Q(purpose__in=KeyPurpose.values), name="device_key_purpose_known"),
            models.UniqueConstraint(
                fields=("device", "purpose"), condition=Q(retired_at=None), name="one_live_key_per_purpose"
            ),
        )

    def __str__(self) -> str:
        return f"{self.algorithm} {bytes(self.fingerprint).hex()[:16]}"
