"""Keys of the server itself."""

import uuid

from django.db import models


class KeyPurpose(models.TextChoices):
    """What a server key signs."""

    IDENTITY = "identity", "server identity"
    LOG = "log", "log checkpoints"


class ServerKey(models.Model):
    """A signature key of the server; the private key is wrapped under the KEK and bound to this row."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    purpose = models.CharField(max_length=16, choices=KeyPurpose)
    algorithm = models.CharField(max_length=32)
    public_key = models.BinaryField()
    wrapped_private = models.BinaryField()
    fingerprint = models.BinaryField(max_length=32, unique=True)
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
        ]

    def __str__(self) -> str:
        return f"{self.get_purpose_display()} key {bytes(self.fingerprint).hex()[:16]} ({self.algorithm})"
