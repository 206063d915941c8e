"""A device's part in a round, and the update that it hands in."""

import uuid

from django.db import models
from django.db.models import Q

from devices.models import Device, DeviceKey
from training.models.round import Round


class ParticipationState(models.TextChoices):
    """How far a device came in a round."""

    INVITED = "invited", "Invited"
    DOWNLOADED = "downloaded", "Downloaded the model"
    SUBMITTED = "submitted", "Submitted"
    ACCEPTED = "accepted", "Accepted"
    REJECTED = "rejected", "Rejected"
    FAILED = "failed", "Training failed"


WAITING = (ParticipationState.INVITED, ParticipationState.DOWNLOADED)
"""The device may still hand in."""


class Participation(models.Model):
    """One device's part in one round, with the enclave's verdict."""

    round = models.ForeignKey(Round, on_delete=models.PROTECT, related_name="participations")
    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="participations")
    signature_key = models.ForeignKey(
        DeviceKey, on_delete=models.PROTECT, related_name="+", help_text="The key that the round's roster names."
    )
    state = models.CharField(max_length=20, choices=ParticipationState.choices, default=ParticipationState.INVITED)
    reason = models.CharField(max_length=200, blank=True)
    scores = models.JSONField(default=dict, blank=True)
    verdict_proof = models.BinaryField(
        null=True, help_text="The enclave's verdict and the path from it to the signed result, in CBOR."
    )
    downloaded_at = models.DateTimeField(null=True, blank=True)
    submitted_at = models.DateTimeField(null=True, blank=True, db_index=True)
    progress = models.FloatField(null=True, blank=True, help_text="How much of its training is done, as it says.")
    progress_at = models.DateTimeField(null=True, blank=True)
    progress_lease_until = models.DateTimeField(null=True, blank=True, help_text="Until then it counts as training.")
    loss = models.FloatField(null=True, blank=True, help_text="The last one it reported.")
    progress_metrics = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ("round", "device__name")
        indexes = (
            models.Index(
                fields=("-id",), condition=Q(state=ParticipationState.REJECTED), name="participation_rejected"
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=("round", "device"), name="one_part_per_device_and_round"),
            models.CheckConstraint(condition=Q(state__in=ParticipationState.values), name="participation_state_known"),
            models.CheckConstraint(
                condition=Q(progress=None) | Q(progress__gte=0, progress__lte=1), name="progress_is_a_fraction"
            ),
        )

    def __str__(self) -> str:
        return f"{self.device} in {self.round}"


class Update(models.Model):
    """One device's signed, sealed contribution to one round, acknowledged by its receipt."""

    participation = models.OneToOneField(Participation, on_delete=models.PROTECT, related_name="update")
    manifest = models.BinaryField()
    manifest_digest = models.BinaryField(unique=True, max_length=64)
    sample_count = models.PositiveBigIntegerField()
    metrics = models.JSONField(default=dict)
    blob_digest = models.CharField(max_length=64)
    blob_bytes = models.PositiveBigIntegerField()
    receipt = models.BinaryField()
    received_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("participation",)

    def __str__(self) -> str:
        return f"update of {self.participation}"


class Upload(models.Model):
    """An update that arrives in pieces, not yet whole; it becomes an `Update` with its last piece."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    participation = models.OneToOneField(Participation, on_delete=models.CASCADE, related_name="upload")
    manifest = models.BinaryField()
    manifest_digest = models.BinaryField(unique=True, max_length=64)
    total_bytes = models.PositiveBigIntegerField()
    offset_bytes = models.PositiveBigIntegerField(default=0, help_text="How much of it is on stable storage.")
    begun_at = models.DateTimeField()

    class Meta:
        ordering = ("begun_at",)
        constraints = (
            models.CheckConstraint(
                condition=Q(offset_bytes__lt=models.F("total_bytes")), name="an_upload_that_is_whole_is_an_update"
            ),
        )

    def __str__(self) -> str:
        return f"upload of {self.participation}"
