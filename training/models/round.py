"""A round with its steps, those of its ranges, and what it leaves: rows for the next one, releases in the ledger."""

import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from qflare_protocol.aggregation_policy import AggregationPolicy
from training.models.federation import Federation, ModelVersion
from training.models.lease import not_held
from training.terms import Mode


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


def _not_held(now: datetime) -> Q:
    return not_held("lease_expires_at", timedelta(seconds=settings.QFLARE_LEASE_SECONDS), now)


class RoundQuerySet(models.QuerySet["Round"]):
    """Reads that services and tasks share."""

    def unfinished(self) -> "RoundQuerySet":
        """Rounds that still run."""
        return self.filter(state__in=UNFINISHED)

    def without_lease(self, now: datetime) -> "RoundQuerySet":
        """Rounds whose running step nobody holds."""
        return self.filter(_not_held(now))

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
    unattended_at = models.DateTimeField(
        null=True, blank=True, help_text="When a tick last found its enclave host absent."
    )
    unattended_seconds = models.PositiveIntegerField(default=0, help_text="How long ticks have found it so.")

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

    @property
    def has_extensions_left(self) -> bool:
        """Whether its federation's terms let its deadline be put off once more while devices train."""
        return self.federation.extension_seconds > 0 and self.extensions < self.federation.maximum_extensions

    def takes_updates_at(self, now: datetime) -> bool:
        """Whether updates are taken: while it is open, and past its deadline where that can still be put off.

        The tick that judges it may be late: nobody is turned away for whom it would have waited.
        """
        if self.state != RoundState.OPEN:
            return False
        return now < self.deadline_at or self.is_buffer or self.has_extensions_left

    def aggregation_policy(self) -> AggregationPolicy:
        """Return the policy this round was opened under."""
        return AggregationPolicy.from_map(self.policy)


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
        return self.filter(_not_held(now), message=None)

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
