"""What is trained: federations, their rounds, each device's part in them, and the model versions."""

import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from devices.models import Device, DeviceKey, DeviceState
from qflare_protocol.aggregation_policy import AggregationPolicy
from training.terms import TERMS_CONSTRAINTS, Mode, RoundTerms


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

    @staticmethod
    def envelope(federation_id: uuid.UUID, number: int) -> dict[str, Any]:
        """Return what the wrapped content key is bound to."""
        key = f"{federation_id}/{number}"
        return {"table": ModelVersion._meta.db_table, "primary_key": key, "column": "wrapped_content_key"}


class RoundState(models.TextChoices):
    """`pending > open > aggregating > completed | failed | cancelled`."""

    PENDING = "pending", "Preparing the enclave"
    OPEN = "open", "Open"
    AGGREGATING = "aggregating", "Aggregating"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


UNFINISHED = (RoundState.PENDING, RoundState.OPEN, RoundState.AGGREGATING)
LEASED = (RoundState.PENDING, RoundState.AGGREGATING)


class RangeStepKind(models.TextChoices):
    """The steps of ranges, and between them what the round decides; see `training.services.range_steps`."""

    READ = "read", "Read"
    SIGHT = "sight", "Sight to read again in"
    READ_AGAIN = "read-again", "Read again"
    DECISION = "decision", "Decision"
    COMBINE = "combine", "Combine"


class RoundQuerySet(models.QuerySet["Round"]):
    """Reads that services and tasks share."""

    def unfinished(self) -> "RoundQuerySet":
        """Rounds that still run."""
        return self.filter(state__in=UNFINISHED)

    def without_lease(self, now: datetime) -> "RoundQuerySet":
        """Rounds whose running step nobody holds.

        Nobody is given a lease for so long that it ends twice its time from now: that one was given before
        the clock was put back, and whoever is still at the step loses no more by it than time.
        """
        no_lease_ends_after = now + 2 * timedelta(seconds=settings.QFLARE_LEASE_SECONDS)
        return self.filter(
            Q(lease_expires_at=None) | Q(lease_expires_at__lte=now) | Q(lease_expires_at__gt=no_lease_ends_after)
        )

    def awaiting_worker(self, now: datetime) -> "RoundQuerySet":
        """Rounds with a step to run that no worker holds a lease on; none whose ranges are still at theirs."""
        ranges = RangeStep.objects.filter(round=models.OuterRef("pk"), message=None)
        return self.filter(state__in=LEASED).without_lease(now).exclude(models.Exists(ranges))

    def due_to_close(self, now: datetime) -> "RoundQuerySet":
        """Open rounds at their target or deadline, or for which no more updates, or too few, can still come in."""
        return self.filter(state=RoundState.OPEN).filter(
            Q(deadline_at__lte=now)
            | Q(submissions__gte=models.F("target_updates"))
            | Q(invited__lte=models.F("submissions") + models.F("failures"))
            | Q(invited__lt=models.F("minimum_updates") + models.F("failures"))
        )


class Round(models.Model):
    """One round of one federation. Its running step is held by a lease, so a dead worker costs time only."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    federation = models.ForeignKey(Federation, on_delete=models.PROTECT, related_name="rounds")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=20, choices=RoundState.choices, default=RoundState.PENDING)
    base_version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="rounds_from")
    resulting_version = models.OneToOneField(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="produced_by"
    )
    policy = models.JSONField()
    roster = models.BinaryField(help_text="Deterministic CBOR of the invited devices and their signature keys.")
    older_bases = models.JSONField(
        default=list, blank=True, help_text="Earlier versions whose updates it also takes: number, digest, staleness."
    )
    invited = models.PositiveIntegerField(help_text="How many devices the roster names.")
    minimum_updates = models.PositiveIntegerField(help_text="The policy's.")
    target_updates = models.PositiveIntegerField()
    submissions = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0, help_text="Devices that reported a failed training.")
    extensions = models.PositiveIntegerField(default=0, help_text="How often the deadline was put off by itself.")
    created_at = models.DateTimeField(db_index=True)
    opened_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=500, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="How often the running step was started.")
    restarts = models.PositiveSmallIntegerField(default=0, help_text="How often a lost enclave key began it anew.")
    lease_holder = models.UUIDField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)

    objects = RoundQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("state", "lease_expires_at")),)
        constraints = (
            models.UniqueConstraint(fields=("federation", "number"), name="round_numbers_are_unique"),
            models.UniqueConstraint(
                fields=("federation",), condition=Q(state__in=UNFINISHED), name="one_unfinished_round_per_federation"
            ),
            models.CheckConstraint(condition=Q(state__in=RoundState.values), name="round_state_known"),
            models.CheckConstraint(
                condition=~Q(state=RoundState.OPEN) | Q(opened_at__isnull=False, deadline_at__isnull=False),
                name="an_open_round_has_a_deadline",
            ),
            models.CheckConstraint(
                condition=Q(minimum_updates__lte=models.F("target_updates"), target_updates__lte=models.F("invited")),
                name="the_target_can_be_reached",
            ),
            models.CheckConstraint(
                condition=Q(state=RoundState.COMPLETED, resulting_version__isnull=False)
                | (~Q(state=RoundState.COMPLETED) & Q(resulting_version=None)),
                name="exactly_a_completed_round_has_a_result",
            ),
            models.CheckConstraint(
                condition=Q(state__in=UNFINISHED, finished_at=None)
                | (~Q(state__in=UNFINISHED) & Q(finished_at__isnull=False)),
                name="a_finished_round_has_its_time",
            ),
        )

    def __str__(self) -> str:
        return f"{self.federation} round {self.number}"

    @property
    def is_buffer(self) -> bool:
        """Whether it waits until it is full, whatever its deadline says."""
        return bool(self.federation.mode == Mode.ASYNCHRONOUS)

    def takes_updates_at(self, now: datetime) -> bool:
        """Whether updates are taken: while it is open, of a buffer also past a deadline not yet put off."""
        return self.state == RoundState.OPEN and (self.is_buffer or now < self.deadline_at)

    def aggregation_policy(self) -> AggregationPolicy:
        """Return the policy this round was opened under."""
        return AggregationPolicy.from_map(self.policy)


class PrivacyRelease(models.Model):
    """A noised model that left the enclave, published or not; the ledger of a federation's privacy budget."""

    federation = models.ForeignKey(Federation, on_delete=models.PROTECT, related_name="privacy_releases")
    number = models.PositiveIntegerField()
    round = models.ForeignKey(Round, on_delete=models.PROTECT, related_name="privacy_releases")
    version = models.OneToOneField(
        ModelVersion,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="privacy_release",
        help_text="Empty: the model left the enclave and was not published.",
    )
    noise_multiplier = models.FloatField()
    epsilon_spent = models.FloatField(help_text="By all releases up to and with this one, at delta.")
    delta = models.FloatField()
    released_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("federation", "-number")
        constraints = (
            models.UniqueConstraint(fields=("federation", "number"), name="release_numbers_are_unique"),
            models.CheckConstraint(condition=Q(noise_multiplier__gt=0), name="a_release_has_noise"),
        )

    def __str__(self) -> str:
        return f"release {self.number} of {self.federation}"

    def statement(self) -> dict[str, Any]:
        """Return what events say of this release."""
        return {
            "privacy_release": self.number,
            "noise_multiplier": self.noise_multiplier,
            "epsilon_spent": self.epsilon_spent,
            "delta": self.delta,
        }


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


class CarriedRow(models.Model):
    """What a federation carries from round to round, sealed by its enclave: histories, momentum, the last aggregate."""

    federation = models.ForeignKey(Federation, on_delete=models.CASCADE, related_name="carried_rows")
    name = models.CharField(max_length=80, help_text="See enclave.core.carried.")
    enclave_key_id = models.BinaryField(max_length=32, help_text="The enclave that made it.")
    blob_digest = models.CharField(max_length=64)
    blob_bytes = models.PositiveBigIntegerField()
    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="+", help_text="The round that left it.")

    class Meta:
        ordering = ("federation", "name")
        constraints = (models.UniqueConstraint(fields=("federation", "name"), name="a_row_is_carried_once"),)

    def __str__(self) -> str:
        return f"{self.name} of {self.federation}"


class RoundStep(models.Model):
    """How long one step of a round took, for the console and the demo's table."""

    ORDER: ClassVar[tuple[str, ...]] = ("prepare", "collect", "aggregate", "publish", "evaluate")

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=40)
    started_at = models.DateTimeField(db_index=True)
    seconds = models.FloatField()

    class Meta:
        ordering = ("round", "started_at")
        constraints = (models.UniqueConstraint(fields=("round", "name"), name="a_step_is_timed_once_per_round"),)

    def __str__(self) -> str:
        return f"{self.name} of {self.round}: {self.seconds:.2f} s"


class RangeStepQuerySet(models.QuerySet["RangeStep"]):
    """Reads that services and tasks share."""

    def free(self, now: datetime) -> "RangeStepQuerySet":
        """Steps that are not done and that no worker holds a lease on: of the row alone, so that an UPDATE may ask."""
        return self.filter(Q(lease_expires_at=None) | Q(lease_expires_at__lte=now), message=None)

    def awaiting_worker(self, now: datetime) -> "RangeStepQuerySet":
        """Those of rounds that are being aggregated."""
        return self.free(now).filter(round__state=RoundState.AGGREGATING)


class RangeStep(models.Model):
    """One step of one range of a round whose model several sealed processes share; done when it has its message."""

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="range_steps")
    kind = models.CharField(max_length=20, choices=RangeStepKind.choices)
    range_index = models.PositiveSmallIntegerField()
    message = models.BinaryField(null=True, help_text="What the process said, sealed for those of the other ranges.")
    attempts = models.PositiveSmallIntegerField(default=0)
    lease_holder = models.UUIDField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)

    objects = RangeStepQuerySet.as_manager()

    class Meta:
        ordering = ("round", "kind", "range_index")
        constraints = (
            models.UniqueConstraint(fields=("round", "kind", "range_index"), name="a_range_has_each_step_once"),
            models.CheckConstraint(condition=Q(kind__in=RangeStepKind.values), name="range_step_kind_known"),
            models.CheckConstraint(
                condition=Q(message=None) | Q(lease_holder=None, lease_expires_at=None),
                name="a_step_that_is_done_is_held_by_nobody",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} of range {self.range_index} in {self.round}"


class RangeOutput(models.Model):
    """A sealed row that a range has given out: its slice of the new model, or a row for the next round."""

    step = models.ForeignKey(RangeStep, on_delete=models.CASCADE, related_name="outputs")
    name = models.CharField(max_length=80, help_text="See enclave.core.carried.")
    blob_digest = models.CharField(max_length=64)
    blob_bytes = models.PositiveBigIntegerField()

    class Meta:
        ordering = ("step", "name")
        constraints = (models.UniqueConstraint(fields=("step", "name"), name="a_range_gives_a_row_out_once"),)

    def __str__(self) -> str:
        return f"{self.name} of {self.step}"
