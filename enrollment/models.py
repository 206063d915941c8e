"""One-time enrolment tokens, stored as hashes, and the exchanges that use them up."""

import uuid
from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import Q

from devices.models import Device


class EnrolmentToken(models.Model):
    """A single-use right to enrol one device. The secret itself is never stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    lookup = models.BinaryField(unique=True, max_length=16)
    verifier = models.BinaryField(max_length=64)
    device_name = models.CharField(max_length=100, blank=True, help_text="Empty: the device chooses its name.")
    group = models.CharField(max_length=100, blank=True)
    suite = models.CharField(max_length=20)
    identity_fingerprint = models.BinaryField(max_length=32, help_text="Of the server identity key the token pins.")
    reenrols = models.ForeignKey(
        Device, null=True, blank=True, on_delete=models.PROTECT, related_name="reenrolment_tokens",
        help_text="The revoked device that comes back with this token; empty: a new device.",
    )  # fmt: skip
    issued_by = models.CharField(max_length=200)
    issued_at = models.DateTimeField(db_index=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey(Device, null=True, blank=True, on_delete=models.PROTECT, related_name="tokens")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-issued_at",)
        verbose_name = "enrolment token"
        constraints = (
            models.CheckConstraint(
                condition=Q(used_at=None) | Q(revoked_at=None), name="token_used_or_revoked_not_both"
            ),
            models.CheckConstraint(
                condition=Q(used_at=None, used_by=None) | Q(used_at__isnull=False, used_by__isnull=False),
                name="used_token_names_its_device",
            ),
            models.CheckConstraint(condition=Q(expires_at__gt=models.F("issued_at")), name="token_lives_after_issue"),
        )

    def __str__(self) -> str:
        return f"token {str(self.id)[:8]} for {self.device_name or 'any device'}"

    STATES: ClassVar[tuple[str, ...]] = ("unused", "used", "expired", "revoked")

    @staticmethod
    def in_state(state: str, now: datetime) -> Q:
        """Return the condition under which a token is in one of `STATES` now; it says in SQL what `state` says."""
        untouched = Q(used_at=None, revoked_at=None)
        return {
            "unused": untouched & Q(expires_at__gt=now),
            "used": Q(used_at__isnull=False),
            "expired": untouched & Q(expires_at__lte=now),
            "revoked": Q(revoked_at__isnull=False),
        }[state]

    def state(self, now: datetime) -> str:
        """Return "used", "revoked", "expired" or "unused"."""
        if self.used_at:
            return "used"
        if self.revoked_at:
            return "revoked"
        return "expired" if now >= self.expires_at else "unused"


class EnrolmentAttempt(models.Model):
    """One exchange E1 to E4; its secret state is wrapped and erased when it ends."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    token = models.ForeignKey(EnrolmentToken, on_delete=models.CASCADE, related_name="attempts")
    device_name = models.CharField(max_length=100)
    suite = models.CharField(max_length=20)
    kem_key = models.BinaryField()
    signature_key = models.BinaryField()
    identity_fingerprint = models.BinaryField(max_length=32, help_text="Of the server identity key that signed E2.")
    wrapped_state = models.BinaryField(null=True)
    expires_at = models.DateTimeField(db_index=True)
    finish_digest = models.BinaryField(null=True, max_length=64)
    confirmation = models.BinaryField(null=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(confirmation=None, finish_digest=None)
                | Q(confirmation__isnull=False, finish_digest__isnull=False, wrapped_state=None),
                name="finished_attempt_keeps_no_secret",
            ),
        )

    def __str__(self) -> str:
        return f"attempt {str(self.id)[:8]} of {self.device_name}"
