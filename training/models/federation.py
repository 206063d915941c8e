"""A federation, the versions of its model, and what devices measure of them."""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from devices.models import Device, DeviceState
from qflare_protocol.aggregation_policy import AggregationPolicy
from training.terms import TERMS_CONSTRAINTS, RoundTerms


class FederationState(models.TextChoices):
    """Whether rounds are opened."""

    ACTIVE = "active", "Active"
    PAUSED = "paused", "Paused"
    FINISHED = "finished", "Finished"


class Federation(RoundTerms):
    """One model trained by one group of devices under one policy."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(max_length=100, unique=True)
    group = models.CharField(max_length=100, blank=True, help_text="Devices of this group take part; empty: all.")
    state = models.CharField(max_length=20, choices=FederationState.choices, default=FederationState.ACTIVE)
    policy = models.JSONField(help_text="The aggregation policy that the enclave measures and enforces.")
    round_seconds = models.PositiveIntegerField(default=3600, help_text="How long a round stays open.")
    planned_rounds = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: no end.")
    trainer = models.CharField(max_length=200, help_text="The training code devices run, as module:Class.")
    trainer_parameters = models.JSONField(default=dict, blank=True)
    evaluator = models.CharField(max_length=200, blank=True, help_text="Evaluates each version here, as module:Class.")
    idle_devices = models.PositiveIntegerField(
        null=True, blank=True, help_text="A round opens whenever so many devices are idle. Empty: not by that."
    )
    finish_reason = models.CharField(max_length=300, blank=True)
    privacy_budget_epsilon = models.FloatField(null=True, blank=True, help_text="What all releases may spend.")
    privacy_delta = models.FloatField(null=True, blank=True, help_text="The delta that epsilon is stated at.")
    privacy_least_noise = models.FloatField(
        null=True, blank=True, help_text="Noise multiplier of the one release that would spend the whole budget."
    )
    created_at = models.DateTimeField()
    current_version = models.ForeignKey(
        "ModelVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="current_in"
    )

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=Q(state__in=FederationState.values), name="federation_state_known"),
            models.CheckConstraint(condition=Q(round_seconds__gte=1), name="a_round_lasts_a_second"),
            models.CheckConstraint(
                condition=Q(privacy_budget_epsilon=None, privacy_least_noise=None)
                | Q(  # a comparison with null is no violation: what has to be there is said
                    privacy_budget_epsilon__isnull=False,
                    privacy_least_noise__isnull=False,
                    privacy_delta__isnull=False,
                    privacy_budget_epsilon__gt=0,
                    privacy_least_noise__gt=0,
                ),
                name="a_privacy_budget_has_its_delta_and_noise",
            ),
            models.CheckConstraint(
                condition=Q(privacy_delta=None) | Q(privacy_delta__gt=0, privacy_delta__lt=1),
                name="a_delta_is_a_probability",
            ),
            models.CheckConstraint(
                condition=Q(idle_devices=None) | Q(idle_devices__gte=1), name="idle_devices_are_one_or_more"
            ),
            *TERMS_CONSTRAINTS,
        )

    def __str__(self) -> str:
        return self.name

    def aggregation_policy(self) -> AggregationPolicy:
        """Return the policy as a checked value."""
        return AggregationPolicy.from_map(self.policy)

    def noise_of_releases(self) -> list[float]:
        """Return the noise multiplier of each release so far, in order."""
        return list(self.privacy_releases.order_by("number").values_list("noise_multiplier", flat=True))

    def members(self) -> models.QuerySet[Device]:
        """Return the active devices that take part."""
        active = Device.objects.filter(state=DeviceState.ACTIVE)
        return active.filter(group=self.group) if self.group else active


class ModelVersion(models.Model):
    """One version of a federation's model, stored encrypted under its own content key."""

    federation = models.ForeignKey(Federation, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    digest = models.BinaryField(max_length=32, help_text="BLAKE3 of the safetensors file.")
    size_bytes = models.PositiveBigIntegerField()
    blob_digest = models.CharField(
        max_length=64, db_index=True, help_text="BLAKE3 of the encrypted blob, its name in the store."
    )
    blob_bytes = models.PositiveBigIntegerField()
    wrapped_content_key = models.BinaryField()
    provenance = models.BinaryField(null=True, help_text="The enclave's signed round result.")
    privacy_epsilon = models.FloatField(null=True, blank=True, help_text="Spent up to and with this version.")
    privacy_delta = models.FloatField(null=True, blank=True)
    metrics = models.JSONField(default=dict, blank=True)
    reported_metrics = models.JSONField(
        default=dict, blank=True, help_text="Medians of what the accepted devices reported of their training."
    )
    evaluations = models.PositiveIntegerField(default=0, help_text="Devices that evaluated it on their own data.")
    evaluation_sums = models.JSONField(
        default=dict, blank=True, help_text="Of each metric of theirs: the sum weighted by samples, and the samples."
    )
    restored_from = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="restored_as",
        help_text="The version whose model this is once more, after training went back to it.",
    )  # fmt: skip
    released_at = models.DateTimeField(null=True, blank=True, help_text="Since when it is the released version.")
    evaluated_at = models.DateTimeField(null=True, blank=True)
    evaluation_lease_expires_at = models.DateTimeField(null=True, blank=True)
    evaluation_error = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("federation", "-number")
        indexes = (
            models.Index(
                fields=("federation",),
                condition=Q(evaluated_at=None, evaluation_error=""),
                name="version_not_evaluated",
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=("federation", "number"), name="version_numbers_are_unique"),
            models.UniqueConstraint(
                fields=("federation",), condition=Q(released_at__isnull=False), name="one_released_version"
            ),
        )

    def __str__(self) -> str:
        return f"{self.federation} v{self.number}"

    @property
    def device_metrics(self) -> dict[str, float]:
        """The mean of each metric over the devices that reported it, weighted by their samples."""
        return {name: weighted / samples for name, (weighted, samples) in sorted(self.evaluation_sums.items())}

    def maker_id(self) -> uuid.UUID:
        """Return the id of the round that made this model, and nothing else of it: its roster names every device."""
        made = type(self).objects.filter(pk=self.restored_from_id or self.pk)
        return made.values_list("produced_by", flat=True).get()

    @staticmethod
    def envelope(federation_id: uuid.UUID, number: int) -> dict[str, Any]:
        """Return what the wrapped content key is bound to."""
        key = f"{federation_id}/{number}"
        return {"table": ModelVersion._meta.db_table, "primary_key": key, "column": "wrapped_content_key"}


class VersionEvaluation(models.Model):
    """What one device says of one model version, measured on the data that it holds out."""

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="device_evaluations")
    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="evaluations")
    sample_count = models.PositiveBigIntegerField(help_text="0: it holds no data out.")
    metrics = models.JSONField(default=dict)
    reported_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-reported_at",)
        constraints = (models.UniqueConstraint(fields=("device", "version"), name="a_device_evaluates_a_version_once"),)

    def __str__(self) -> str:
        return f"{self.version} on the data of {self.device}"
