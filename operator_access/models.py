"""The secrets of second factors, wrapped; and what waits for a second person."""

import uuid
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from operator_admin.tones import tone_of


class FactorSecret(models.Model):
    """A TOTP secret, or the seed of recovery codes, under a data key; allauth's row names it by its id."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="factor_secrets")
    wrapped_secret = models.BinaryField()
    created_at = models.DateTimeField()

    COLUMN: ClassVar[str] = "wrapped_secret"

    class Meta:
        ordering = ("created_at",)

    def __str__(self) -> str:
        return f"secret {self.id}"

    def envelope(self) -> dict[str, str]:
        """Return what the wrapped secret is bound to: this row, and whose it is."""
        return {"table": self._meta.db_table, "primary_key": self.bound_to, "column": self.COLUMN}

    @property
    def bound_to(self) -> str:
        """The owner's key and the row's."""
        return f"{self.user_id}/{self.pk}"


class ApprovalState(models.TextChoices):
    """Where a request stands; all but the first are final."""

    PENDING = "pending", "Pending"
    APPROVED = "approved", "Approved"
    REFUSED = "refused", "Refused"
    WITHDRAWN = "withdrawn", "Withdrawn"
    EXPIRED = "expired", "Expired"


BY_ANOTHER = (ApprovalState.APPROVED, ApprovalState.REFUSED)
DECIDED = (*BY_ANOTHER, ApprovalState.WITHDRAWN)


class ApprovalRequest(models.Model):
    """Something that one person asked for and that is done when another one agrees.

    Names stand beside the keys: the row says who it was when the person is gone, and somebody in a shell has no key.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    subject = models.CharField(max_length=20, help_text="Which of QFLARE_SECOND_PERSON it falls under.")
    action = models.CharField(max_length=200, help_text="The registered name of what is to be done.")
    label = models.CharField(max_length=200)
    target = models.CharField(max_length=200, blank=True)
    target_name = models.CharField(max_length=200)
    answers = models.JSONField(default=dict, help_text="What the asker filled in, field by field.")
    state = models.CharField(max_length=10, choices=ApprovalState.choices, default=ApprovalState.PENDING)
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="approvals_asked"
    )
    from_shell = models.BooleanField(default=False, help_text="Asked for by a command: it has no row of a person.")
    asked_by_name = models.CharField(max_length=200)
    asked_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="approvals_decided"
    )
    decided_by_name = models.CharField(max_length=200, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    remark = models.TextField(blank=True, help_text="Of whoever decided.")
    used_at = models.DateTimeField(
        null=True, blank=True, help_text="When a command ran by it; such an approval is of once."
    )

    class Meta:
        ordering = ("-asked_at",)
        constraints = (
            models.CheckConstraint(condition=Q(state__in=ApprovalState.values), name="approval_state_known"),
            models.CheckConstraint(condition=Q(expires_at__gt=models.F("asked_at")), name="approval_expires_later"),
            models.CheckConstraint(
                condition=Q(state__in=DECIDED, decided_at__isnull=False)
                | (~Q(state__in=DECIDED) & Q(decided_at=None, decided_by=None, decided_by_name="")),
                name="approval_decided_when_it_says_so",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=BY_ANOTHER)
                | (
                    ~Q(decided_by_name="")
                    & ~Q(decided_by_name=models.F("asked_by_name"))
                    & (Q(asked_by=None) | Q(decided_by=None) | ~Q(decided_by=models.F("asked_by")))
                ),
                name="approval_is_by_another_person",
            ),
            models.CheckConstraint(
                condition=Q(asked_by=None) | Q(from_shell=False), name="approval_of_shell_or_person"
            ),
            models.CheckConstraint(
                condition=Q(used_at=None) | Q(state=ApprovalState.APPROVED), name="approval_used_when_approved"
            ),
            models.CheckConstraint(condition=~Q(state__in=BY_ANOTHER) | ~Q(remark=""), name="approval_has_a_remark"),
            models.UniqueConstraint(
                fields=("action", "target"), condition=Q(state=ApprovalState.PENDING), name="one_pending_approval_of_it"
            ),
        )

    def __str__(self) -> str:
        return f"{self.label}: {self.target_name}"

    def is_open(self, now: datetime) -> bool:
        """Whether somebody may decide on it."""
        return self.state == ApprovalState.PENDING and now < self.expires_at

    @property
    def tone(self) -> str:
        """The colour of its state."""
        return tone_of(self.state)
