"""Sessions between devices and this server, and the replay state of their requests."""

import uuid
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Q

from devices.models import Device, DeviceState
from qflare_protocol.qkd.policy import QkdUse
from qflare_protocol.sealed_request import SealedAnswer


class SessionState(models.TextChoices):
    """Where a session stands; an ended one keeps no key."""

    PENDING = "pending", "Challenge sent"
    ACTIVE = "active", "Active"
    ENDED = "ended", "Ended"


class SessionQuerySet(models.QuerySet["Session"]):
    """Reads that several services share."""

    def live(self, now: datetime) -> "SessionQuerySet":
        """Sessions under which a request may be opened now: active, unexpired, of an active device."""
        return self.filter(state=SessionState.ACTIVE, expires_at__gt=now, device__state=DeviceState.ACTIVE)


class Session(models.Model):
    """One handshake and what follows it. `wrapped_secret` is the handshake's, then the chain's.

    `first_epoch`, `requests` and `transfer_bytes` count for the current generation and begin anew with a
    rekey. `wrapped_offer` is the server's own half of a rekey that waits for the device's answer.
    `key_version` and `identity_fingerprint` name the keys with which both sides proved themselves.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="sessions")
    suite = models.CharField(max_length=20)
    challenge_digest = models.BinaryField(max_length=64, unique=True, help_text="Of M1, which is answered once.")
    state = models.CharField(max_length=20, choices=SessionState.choices, default=SessionState.PENDING)
    end_reason = models.CharField(max_length=100, blank=True)
    wrapped_secret = models.BinaryField(null=True)
    wrapped_offer = models.BinaryField(null=True)
    offer_expires_at = models.DateTimeField(null=True)
    key_version = models.PositiveIntegerField()
    identity_fingerprint = models.BinaryField(max_length=32)
    qkd = models.BooleanField(default=False, help_text="Whether a QKD key was mixed into the root.")
    generation = models.PositiveIntegerField(default=0)
    first_epoch = models.PositiveBigIntegerField()
    epoch = models.PositiveBigIntegerField()
    past_until = models.DateTimeField(null=True, help_text="When the last of the past traffic keys is to be forgotten.")
    highest_sequence = models.PositiveBigIntegerField(default=0)
    requests = models.PositiveIntegerField(default=0)
    transfer_bytes = models.PositiveBigIntegerField(default=0)
    challenged_at = models.DateTimeField()
    activated_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ("-challenged_at",)
        indexes = (
            models.Index(fields=("state", "expires_at")),
            models.Index(fields=("-challenged_at",), name="session_by_challenge"),
            models.Index(fields=("expires_at",), condition=~Q(state=SessionState.ENDED), name="session_not_ended"),
            models.Index(fields=("ended_at",), condition=Q(activated_at__isnull=False), name="session_by_end"),
            models.Index(fields=("ended_at",), condition=Q(activated_at=None), name="session_never_answered"),
            models.Index(
                fields=("offer_expires_at",), condition=Q(offer_expires_at__isnull=False), name="session_offers"
            ),
        )
        constraints = (
            models.CheckConstraint(condition=Q(state__in=SessionState.values), name="session_state_known"),
            models.CheckConstraint(
                condition=Q(state=SessionState.ENDED, wrapped_secret=None, wrapped_offer=None, ended_at__isnull=False)
                | (~Q(state=SessionState.ENDED) & Q(wrapped_secret__isnull=False, ended_at=None)),
                name="only_an_open_session_has_a_secret",
            ),
            models.CheckConstraint(
                condition=Q(wrapped_offer=None, offer_expires_at=None)
                | Q(wrapped_offer__isnull=False, offer_expires_at__isnull=False),
                name="session_offer_expires",
            ),
            models.CheckConstraint(
                condition=Q(epoch__gte=models.F("first_epoch")), name="session_epoch_never_goes_back"
            ),
        )

    def __str__(self) -> str:
        return f"session {str(self.id)[:8]} of {self.device}"

    def envelope(self, column: str = "wrapped_secret") -> dict[str, Any]:
        """Return what a wrapped column is bound to: table, primary key and column."""
        return {"table": self._meta.db_table, "primary_key": str(self.id), "column": column}


class Exchange(models.Model):
    """A request that was accepted and its sealed answer, kept for as long as a retry may come."""

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="exchanges")
    sequence = models.PositiveBigIntegerField()
    request_digest = models.BinaryField(max_length=64)
    status = models.PositiveSmallIntegerField()
    content_type = models.CharField(max_length=100, blank=True)
    salt = models.BinaryField(max_length=16)
    answer = models.BinaryField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("session", "sequence"), name="a_sequence_number_is_used_once"),)

    def __str__(self) -> str:
        return f"exchange {self.sequence} of {self.session_id}"

    def stored_answer(self) -> SealedAnswer:
        """Return the answer that a retry of the same request receives."""
        return SealedAnswer(self.status, self.content_type, bytes(self.salt), bytes(self.answer))


class KeyRotationAttempt(models.Model):
    """The new keys of a device between K2 and K3; the secret state is wrapped and erased when it ends."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="key_rotation_attempts")
    kem_key = models.BinaryField()
    signature_key = models.BinaryField()
    wrapped_state = models.BinaryField()
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"key rotation {str(self.id)[:8]} of {self.device}"

    @classmethod
    def envelope(cls, attempt_id: uuid.UUID) -> dict[str, Any]:
        """Return what the wrapped state is bound to: table, primary key and column."""
        return {"table": cls._meta.db_table, "primary_key": str(attempt_id), "column": "wrapped_state"}


class ReservedQkdKey(models.Model):
    """A QKD key that the server fetched for one device's next handshake.

    It is used once and then erased; the row stays until the request that reserved it is too old to be
    repeated.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="reserved_qkd_keys")
    request_digest = models.BinaryField(max_length=64, unique=True, help_text="Of Q1, which reserves one key.")
    key_id = models.UUIDField(unique=True)
    wrapped_key = models.BinaryField(null=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"QKD key {self.key_id} for {self.device}"

    @classmethod
    def envelope(cls, row_id: uuid.UUID) -> dict[str, Any]:
        """Return what the wrapped key is bound to: table, primary key and column."""
        return {"table": cls._meta.db_table, "primary_key": str(row_id), "column": "wrapped_key"}


class QkdPolicy(models.Model):
    """Whether sessions of a device group have a QKD key; a group without a row has policy `off`."""

    group = models.CharField(
        max_length=100, blank=True, unique=True, help_text="The devices' group; empty for devices without one."
    )
    policy = models.CharField(max_length=10, choices=[(use.value, use.value.capitalize()) for use in QkdUse])
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ("group",)
        verbose_name = "QKD policy"
        verbose_name_plural = "QKD policies"
        constraints = (
            models.CheckConstraint(condition=Q(policy__in=[use.value for use in QkdUse]), name="qkd_policy_known"),
        )

    def __str__(self) -> str:
        return f"QKD {self.policy} for {self.group or 'devices without a group'}"
