"""The terms under which a federation's rounds are held: whom they invite, when they close, how long they wait."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from django.db import models
from django.db.models import Q

from devices.labels import checked_labels
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import finite_number, short_text, whole_number
from qflare_protocol.manifest import MAX_METRIC_NAME

MAX_TARGET: Final = 1_000_000
MAX_OVER_SELECTION: Final = 10.0
MAX_EXTENSION_SECONDS: Final = 30 * 86400
MAX_EXTENSIONS: Final = 1000
MAX_PATIENCE: Final = 10_000


class Selection(models.TextChoices):
    """Which of the devices that could take part a round invites."""

    ALL = "all", "All"
    RANDOM = "random", "At random"
    LEAST_RECENT = "least-recently-used", "Least recently used first"
    HIGHEST_LOSS = "highest-loss", "Highest reported loss first"


class Mode(models.TextChoices):
    """Whether rounds wait for each other."""

    SYNCHRONOUS = "synchronous", "Synchronous"
    ASYNCHRONOUS = "asynchronous", "Asynchronous"


class Direction(models.TextChoices):
    """Which values of a metric are better."""

    MAXIMISE = "maximise", "Higher is better"
    MINIMISE = "minimise", "Lower is better"


class RoundTerms(models.Model):
    """The columns of a federation that hold its terms."""

    mode = models.CharField(
        max_length=20,
        choices=Mode.choices,
        default=Mode.SYNCHRONOUS,
        help_text="Asynchronous: a round is a buffer that closes when it is full, and the next opens at once.",
    )
    selection = models.CharField(
        max_length=20, choices=Selection.choices, default=Selection.ALL, help_text="Whom a round invites."
    )
    selection_fraction = models.FloatField(
        null=True,
        blank=True,
        help_text="How much of the fleet is invited where there is no target; above 0, at most 1.",
    )
    selection_labels = models.JSONField(
        default=dict, blank=True, help_text="A device must bear all these labels to be invited."
    )
    target_updates = models.PositiveIntegerField(
        null=True, blank=True, help_text="A round closes with this many updates. Empty: with those of all invited."
    )
    over_selection = models.FloatField(default=1.0, help_text="How many times the target is invited, for stragglers.")
    extension_seconds = models.PositiveIntegerField(
        default=0, help_text="How long a deadline is put off while devices still train. 0: never."
    )
    maximum_extensions = models.PositiveIntegerField(default=0, help_text="How often at most, in one round.")
    evaluated_by_devices = models.BooleanField(
        default=False, help_text="Each device is asked what each version is worth on the data that it holds out."
    )
    stop_metric = models.CharField(max_length=64, blank=True, help_text="Training ends by this metric. Empty: by none.")
    stop_direction = models.CharField(max_length=20, choices=Direction.choices, default=Direction.MAXIMISE)
    stop_goal = models.FloatField(null=True, blank=True, help_text="Training ends when the metric is this good.")
    stop_patience = models.PositiveIntegerField(
        null=True, blank=True, help_text="Training ends when the metric did not improve for this many versions."
    )

    class Meta:
        abstract = True


TERMS_CONSTRAINTS = (
    models.CheckConstraint(condition=Q(mode__in=Mode.values), name="mode_known"),
    models.CheckConstraint(
        condition=~Q(mode=Mode.ASYNCHRONOUS) | Q(selection=Selection.ALL, target_updates__isnull=False),
        name="a_buffer_is_open_to_all_and_has_a_size",
    ),
    models.CheckConstraint(condition=Q(selection__in=Selection.values), name="selection_known"),
    models.CheckConstraint(
        condition=Q(selection_fraction=None) | Q(selection_fraction__gt=0, selection_fraction__lte=1),
        name="a_fraction_selects_some",
    ),
    models.CheckConstraint(
        condition=Q(selection=Selection.ALL) | Q(target_updates__isnull=False) | Q(selection_fraction__isnull=False),
        name="who_chooses_says_how_many",
    ),
    models.CheckConstraint(
        condition=Q(target_updates=None) | Q(target_updates__gte=1), name="a_target_is_an_update_or_more"
    ),
    models.CheckConstraint(condition=Q(over_selection__gte=1), name="over_selection_invites_the_target"),
    models.CheckConstraint(condition=Q(stop_direction__in=Direction.values), name="stop_direction_known"),
    models.CheckConstraint(
        condition=Q(stop_metric="", stop_goal=None, stop_patience=None)
        | (~Q(stop_metric="") & (Q(stop_goal__isnull=False) | Q(stop_patience__gte=1))),
        name="a_stop_has_metric_and_bound",
    ),
)


@dataclass(frozen=True)
class Terms:
    """Terms as an operator states them; members as the columns of `RoundTerms`.

    Raises `Refusal("policy-refused")` for a member out of its bounds or members that do not go together,
    `Refusal("malformed-message")` for labels out of form.
    """

    mode: str = Mode.SYNCHRONOUS.value
    selection: str = Selection.ALL.value
    selection_fraction: float | None = None
    selection_labels: dict[str, str] = field(default_factory=dict)
    target_updates: int | None = None
    over_selection: float = 1.0
    extension_seconds: int = 0
    maximum_extensions: int = 0
    evaluated_by_devices: bool = False
    stop_metric: str = ""
    stop_direction: str = Direction.MAXIMISE.value
    stop_goal: float | None = None
    stop_patience: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in Mode.values:
            raise Refusal("policy-refused", f"A mode is one of {', '.join(Mode.values)}.")
        if self.mode == Mode.ASYNCHRONOUS and (self.selection != Selection.ALL or self.target_updates is None):
            raise Refusal(
                "policy-refused", "An asynchronous federation invites all and has a target: its buffer's size."
            )
        if self.selection not in Selection.values:
            raise Refusal("policy-refused", f"A selection is one of {', '.join(Selection.values)}.")
        checked_labels(self.selection_labels)
        if self.selection_fraction is not None:
            _number(self.selection_fraction, 1e-9, 1, "selection fraction")
        if self.target_updates is not None:
            _whole(self.target_updates, 1, MAX_TARGET, "target")
        _number(self.over_selection, 1, MAX_OVER_SELECTION, "over-selection")
        _whole(self.extension_seconds, 0, MAX_EXTENSION_SECONDS, "extension in seconds")
        _whole(self.maximum_extensions, 0, MAX_EXTENSIONS, "number of extensions")
        if self.selection != Selection.ALL and self.target_updates is None and self.selection_fraction is None:
            raise Refusal("policy-refused", "A selection that chooses needs a target or a fraction.")
        if (self.extension_seconds > 0) != (self.maximum_extensions > 0):
            raise Refusal("policy-refused", "An extension has its length and the number of times it may be given.")

        self._check_stop()

    def _check_stop(self) -> None:
        if self.stop_direction not in Direction.values:
            raise Refusal("policy-refused", f"A direction is one of {', '.join(Direction.values)}.")
        if self.stop_goal is not None:
            _number(self.stop_goal, -1e12, 1e12, "goal of the metric")
        if self.stop_patience is not None:
            _whole(self.stop_patience, 1, MAX_PATIENCE, "patience in versions")
        if not self.stop_metric and self.stop_goal is None and self.stop_patience is None:
            return
        short_text(self.stop_metric, MAX_METRIC_NAME, what="metric to stop by", code="policy-refused")
        if self.stop_goal is None and self.stop_patience is None:
            raise Refusal("policy-refused", "A metric to stop by needs a goal or a patience.")

    def check_against(self, policy: AggregationPolicy) -> None:
        """Raise `Refusal("policy-refused")` for a target below the updates that the policy needs."""
        if self.target_updates is not None and self.target_updates < policy.minimum_updates:
            raise Refusal("policy-refused", f"The target is below the policy's minimum of {policy.minimum_updates}.")

    def columns(self) -> dict[str, Any]:
        """Return the values of the columns."""
        return asdict(self)


def terms_of(row: RoundTerms) -> Terms:
    """Return the terms that a federation's row holds."""
    return Terms(**{member.name: getattr(row, member.name) for member in fields(Terms)})


def _number(value: object, low: float, high: float, what: str) -> float:
    return finite_number(value, low, high, what=what, code="policy-refused")


def _whole(value: object, low: int, high: int, what: str) -> int:
    return whole_number(value, low, high, what=what, code="policy-refused")
