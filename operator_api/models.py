"""The keys of the operator API; a key's text exists only where it is used."""

import uuid
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from operator_admin.party import Party


class ApiKey(models.Model):
    """A named right to call the operator API, with scopes and an end."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(max_length=100, unique=True, help_text="What it is for; the audit log names it by this.")
    lookup = models.BinaryField(unique=True, max_length=16)
    verifier = models.BinaryField(max_length=64)
    scopes = models.JSONField(help_text="See operator_api.scopes.")
    created_by = models.CharField(max_length=200)
    made_by_person = models.BooleanField(default=False, help_text="False: in a shell; such a key answers to nobody.")
    maker = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="api_keys"
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    # DRF asks its principal for this; a key is only ever the principal of a request that showed it.
    is_authenticated: ClassVar[bool] = True

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "API key"
        constraints = (
            models.CheckConstraint(
                condition=Q(expires_at__gt=models.F("created_at")), name="api_key_lives_after_birth"
            ),
            models.CheckConstraint(condition=~Q(name=""), name="api_key_has_a_name"),
            models.CheckConstraint(condition=Q(maker=None) | Q(made_by_person=True), name="api_key_maker_is_a_person"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def actor(self) -> str:
        """How the audit log names whoever uses this key."""
        return Party("api-key", self.name, self.id)

    @property
    def maker_is_gone(self) -> bool:
        """Whether the person who made it was deleted, kept out, or has no role any more."""
        if not self.made_by_person:
            return False
        return self.maker is None or not (self.maker.is_active and self.maker.is_staff)

    def state(self, now: datetime) -> str:
        """Return "revoked", "expired" or "live"."""
        if self.revoked_at:
            return "revoked"
        return "expired" if now >= self.expires_at else "live"
