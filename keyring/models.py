"""Keys of the server itself."""

import uuid

from django.db import models
from django.db.models import Q

from keyring.columns import Scope
from keyring.kek import ProviderName


class KeyPurpose(models.TextChoices):
    """What a server key signs."""

    IDENTITY = "identity", "server identity"
    LOG = "log", "log checkpoints"


class ServerKey(models.Model):
    """A signature key of the server; the private key is wrapped under a data key and bound to this row.

    A retired key has no private half any more. `succession` is the statement by which the key's
    predecessor named it (`qflare_protocol.identity_succession`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    purpose = models.CharField(max_length=16, choices=KeyPurpose)
    algorithm = models.CharField(max_length=32)
    public_key = models.BinaryField()
    wrapped_private = models.BinaryField(null=True)
    fingerprint = models.BinaryField(max_length=32, unique=True)
    predecessor = models.OneToOneField(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="successor"
    )
    succession = models.BinaryField(null=True)
    created_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["purpose", "algorithm"],
                condition=models.Q(retired_at__isnull=True),
                name="keyring_one_current_key",
            ),
            models.CheckConstraint(
                condition=models.Q(purpose__in=KeyPurpose.values),
                name="keyring_known_purpose",
            ),
            models.CheckConstraint(
                condition=models.Q(retired_at=None, wrapped_private__isnull=False)
                | models.Q(retired_at__isnull=False, wrapped_private=None),
                name="only_a_live_server_key_can_sign",
            ),
            models.CheckConstraint(
                condition=models.Q(predecessor=None, succession=None)
                | models.Q(predecessor__isnull=False, succession__isnull=False),
                name="a_successor_is_named_by_its_predecessor",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_purpose_display()} key {bytes(self.fingerprint).hex()[:16]} ({self.algorithm})"


class EscrowSplit(models.Model):
    """A backup KEK that exists only in the shares of its custodians, `threshold` of whom can put it together."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    threshold = models.PositiveSmallIntegerField()
    custodians = models.JSONField(help_text="Name and key fingerprint of each.")
    backup_kek_id = models.BinaryField(max_length=16, help_text="By which combined shares are checked.")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(condition=Q(threshold__gte=2, threshold__lte=16), name="keyring_escrow_threshold"),
        ]

    def __str__(self) -> str:
        return f"escrow {str(self.id)[:8]}: {self.threshold} of {len(self.custodians)}"


class DataKey(models.Model):
    """A key that encrypts column values of one scope; it rests wrapped under a KEK, and possibly under a backup KEK.

    It is current until `retired_at` is set, and deleted when no value stands under it any more.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    scope = models.CharField(max_length=16, choices=Scope)
    kek_provider = models.CharField("KEK provider", max_length=16, choices=ProviderName)
    kek_id = models.BinaryField("KEK id", max_length=16)
    wrapped_key = models.BinaryField()
    escrow = models.ForeignKey(EscrowSplit, on_delete=models.PROTECT, null=True, related_name="data_keys")
    wrapped_for_escrow = models.BinaryField(null=True)
    created_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["scope", "-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["scope"], condition=Q(retired_at__isnull=True), name="keyring_one_current_data_key"
            ),
            models.CheckConstraint(condition=Q(scope__in=Scope.values), name="keyring_data_key_scope"),
            models.CheckConstraint(condition=Q(kek_provider__in=ProviderName.values), name="keyring_kek_provider"),
            models.CheckConstraint(
                condition=Q(escrow=None, wrapped_for_escrow=None)
                | Q(scope=Scope.SERVER_KEYS, escrow__isnull=False, wrapped_for_escrow__isnull=False),
                name="keyring_escrow_of_server_keys_only",
            ),
        ]

    def __str__(self) -> str:
        return f"data key {str(self.id)[:8]} for {self.get_scope_display()}"


class KekRotation(models.Model):
    """The replacement of one KEK by another, from the making of the new one to the end of the old.

    `replaced` names the KEKs that are destroyed at its end: a list of [provider, id in hexadecimal].
    """

    provider = models.CharField(max_length=16, choices=ProviderName)
    kek_id = models.BinaryField("KEK id", max_length=16)
    replaced = models.JSONField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-started_at"]
        verbose_name = "KEK rotation"
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=Q(finished_at__isnull=True), name="keyring_one_unfinished_rotation"
            ),
            models.CheckConstraint(condition=Q(provider__in=ProviderName.values), name="keyring_rotation_provider"),
        ]

    def __str__(self) -> str:
        return f"rotation to KEK {bytes(self.kek_id).hex()[:16]} ({self.get_provider_display()})"
