"""Federations, rounds, updates and model versions: to look at, to start, pause and cancel."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from operator_admin.base import ReadOnlyAdmin, ReadOnlyInline
from operator_admin.columns import hex_column, state_column, stored_state
from operator_admin.decorators import display
from operator_admin.forms import ReasonForm
from operator_admin.operations import DANGER, Answers, Operation, on_one
from training.dispatch import start_round
from training.forms import ExtensionForm, RollBackForm, ScheduleForm
from training.models import (
    Federation,
    ModelVersion,
    Participation,
    PrivacyRelease,
    Round,
    RoundStep,
    Update,
    VersionEvaluation,
)
from training.privacy import OUTSIDE_THE_GUARANTEE
from training.services.federations import pause_federation, resume_federation
from training.services.model_release import release_version, roll_back
from training.services.privacy_budget import privacy_statement
from training.services.quarantine import quarantine_update
from training.services.rounds import cancel_round, extend_round
from training.services.schedules import (
    schedule_rounds,
    schedule_rounds_by_crontab,
    schedule_rounds_when_idle,
    unschedule_rounds,
)
from training.verdict_reasons import explained_reason


def _start(federation: Federation, actor: str, answers: Answers) -> str:
    opened = start_round(federation.pk, actor=actor, now=timezone.now())
    return f"Round {opened.number} of {federation} is being prepared; {opened.target_updates} devices are invited."


def _pause(federation: Federation, actor: str, answers: Answers) -> str:
    pause_federation(federation.pk, actor=actor)
    return f"{federation} is paused."


def _resume(federation: Federation, actor: str, answers: Answers) -> str:
    resume_federation(federation.pk, actor=actor)
    return f"{federation} is active again."


def _schedule(federation: Federation, actor: str, answers: Answers) -> str:
    if answers["minutes"]:
        schedule_rounds(federation, every=timedelta(minutes=answers["minutes"]), actor=actor)
        return f"{federation} opens a round every {answers['minutes']:g} minutes, when the last one is over."
    if answers["crontab"]:
        schedule_rounds_by_crontab(federation, expression=answers["crontab"], actor=actor)
        return f"{federation} opens rounds by the crontab {answers['crontab']}, in UTC."
    if answers["idle_devices"]:
        schedule_rounds_when_idle(federation, idle_devices=answers["idle_devices"], actor=actor)
        return f"{federation} opens a round whenever {answers['idle_devices']} of its devices are idle."
    unschedule_rounds(federation, actor=actor)
    return f"Rounds of {federation} are opened by hand."


def _cancel(round_: Round, actor: str, answers: Answers) -> str:
    cancel_round(round_.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{round_} is cancelled."


def _extend(round_: Round, actor: str, answers: Answers) -> str:
    seconds = answers["minutes"] * 60
    extended = extend_round(round_.pk, seconds=seconds, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"{extended} waits until {extended.deadline_at:%Y-%m-%d %H:%M} UTC."


def _quarantine(part: Participation, actor: str, answers: Answers) -> str:
    quarantine_update(part.pk, reason=answers["reason"], actor=actor, now=timezone.now())
    return f"The update of {part} is taken out."


def _release(version: ModelVersion, actor: str, answers: Answers) -> str:
    released = release_version(version.pk, actor=actor, now=timezone.now())
    return f"{released} is released."


def _roll_back(federation: Federation, actor: str, answers: Answers) -> str:
    version = roll_back(federation.pk, **answers, actor=actor, now=timezone.now())
    return f"{version} is the released version again."


START = Operation("start_round", "Start a round", "Every active device of the federation is invited now.", _start)
PAUSE = Operation("pause", "Pause", "No further round is opened; one that runs goes on to its end.", _pause)
RESUME = Operation(
    "resume", "Resume", "Its rounds are opened under its policy, by its schedule or by hand.", _resume,
    second_person="policy",
)  # fmt: skip
SCHEDULE = Operation(
    "schedule",
    "Schedule",
    "Rounds open by themselves this way and no other; with all fields empty they are opened by hand.",
    _schedule,
    ScheduleForm,
)
RELEASE = Operation(
    "release",
    "Release",
    "Devices that ask for the released model get this one from then on.",
    _release,
    sensitive=True,
    second_person="release",
)
ROLL_BACK = Operation(
    "roll_back", "Roll back", "Devices that ask for the released model get that earlier one again.", _roll_back,
    RollBackForm, DANGER, sensitive=True, second_person="release",
)  # fmt: skip
EXTEND = Operation(
    "extend", "Extend", "The round waits that much longer for the devices it invited.", _extend, ExtensionForm
)
CANCEL = Operation(
    "cancel",
    "Cancel",
    "The round ends without a model, its keys are destroyed, and the updates it received can never be opened.",
    _cancel,
    ReasonForm,
    DANGER,
    sensitive=True,
)


QUARANTINE = Operation(
    "quarantine",
    "Quarantine",
    "The update is taken out of its round before it is aggregated, and the device is not asked again in it. "
    "Who holds its receipt sees that, and that it was you.",
    _quarantine,
    ReasonForm,
    DANGER,
)


@admin.register(Federation)
class FederationAdmin(ReadOnlyAdmin):
    """A federation is created by `manage.py create_federation`; its terms never change after that."""

    status = state_column(stored_state, ordering="state")
    start_round, schedule, pause = on_one(START), on_one(SCHEDULE), on_one(PAUSE)
    resume, roll_back = on_one(RESUME), on_one(ROLL_BACK)

    list_display = ("name", "group", "status", "current_version", "planned_rounds", "round_seconds", "created_at")
    list_filter = ("state", "group")
    list_select_related = ("current_version__federation",)
    search_fields = ("name", "group", "trainer")
    fields = (
        "id", "name", "group", "status", "current_version", "policy", "privacy", "outside_the_guarantee",
        "mode", "idle_devices", "round_seconds", "planned_rounds", "selection", "selection_labels",
        "selection_fraction", "target_updates", "over_selection", "extension_seconds", "maximum_extensions",
        "stop_metric", "stop_direction", "stop_goal", "stop_patience", "finish_reason", "trainer",
        "trainer_parameters", "evaluator", "created_at",
    )  # fmt: skip
    readonly_fields = ("id", "status", "privacy", "outside_the_guarantee")
    actions_detail = ("start_round", "schedule", "pause", "resume", "roll_back")

    @display(description="Differential privacy")
    def privacy(self, federation: Federation) -> str:
        """What of the budget is spent and left."""
        return privacy_statement(federation)

    @display(description="Outside the guarantee")
    def outside_the_guarantee(self, federation: Federation) -> str:
        """What operators see without noise."""
        return OUTSIDE_THE_GUARANTEE


def progress_column() -> Any:
    """Return a column that shows how much of its training a device says is done."""

    @display(description="Trained")
    def trained(admin_: Any, part: Participation) -> str:
        return "-" if part.progress is None else f"{part.progress:.0%}"

    return trained


class ParticipationInline(ReadOnlyInline):
    """Each device's part on the round's page."""

    model = Participation
    status = state_column(stored_state)
    trained = progress_column()
    fields = readonly_fields = (
        "device", "status", "reason", "downloaded_at", "trained", "loss", "progress_at", "submitted_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Participation]:
        """Fetch the devices and the rounds by which rows are named along with the rows."""
        return super().get_queryset(request).select_related("device", "round__federation").defer("round__roster")


class RoundStepInline(ReadOnlyInline):
    """The timed steps on the round's page."""

    model = RoundStep
    fields = readonly_fields = ("name", "started_at", "seconds")

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoundStep]:
        """Fetch the rounds by which rows are named along with the rows."""
        return super().get_queryset(request).select_related("round__federation").defer("round__roster")


@admin.register(Round)
class RoundAdmin(ReadOnlyAdmin):
    """Rounds, newest first."""

    status = state_column(stored_state, ordering="state")
    extend, cancel = on_one(EXTEND), on_one(CANCEL)

    list_display = (
        "__str__", "status", "submissions", "target_updates", "created_at", "deadline_at", "finished_at", "end_reason",
    )  # fmt: skip
    list_filter = ("state", "federation")
    list_select_related = ("federation",)
    search_fields = ("federation__name", "end_reason", "id")
    date_hierarchy = "created_at"
    fields = (
        "id", "federation", "number", "status", "end_reason", "base_version", "resulting_version", "policy",
        "invited", "target_updates", "submissions", "failures", "created_at", "opened_at", "deadline_at",
        "extensions", "closed_at", "finished_at", "attempts", "lease_expires_at",
    )  # fmt: skip
    readonly_fields = ("id", "status")
    inlines = (ParticipationInline, RoundStepInline)
    actions_detail = ("extend", "cancel")


@admin.register(Participation)
class ParticipationAdmin(ReadOnlyAdmin):
    """Each device's part in each round, with the enclave's verdict, reason and scores."""

    status = state_column(stored_state, ordering="state")
    quarantine = on_one(QUARANTINE)
    actions_detail = ("quarantine",)

    ordering = ("-id",)  # by their round's age, near enough; names of another table cannot be read in order
    trained = progress_column()
    list_display = ("device", "round", "status", "reason", "trained", "loss", "submitted_at")
    list_filter = ("state", "reason", "round__federation")
    list_select_related = ("device", "round__federation")
    search_fields = ("device__name", "round__federation__name", "reason")
    date_hierarchy = "submitted_at"
    fields = (
        "device", "round", "status", "reason", "meaning", "scores", "outside_the_guarantee", "downloaded_at", "trained",
        "loss", "progress_metrics", "progress_at", "progress_lease_until", "submitted_at",
    )  # fmt: skip
    readonly_fields = ("status", "meaning", "outside_the_guarantee", "trained")

    @display(description="Which means")
    def meaning(self, part: Participation) -> str:
        """The reason in a sentence."""
        return explained_reason(part.reason) or "-"

    @display(description="Outside the guarantee")
    def outside_the_guarantee(self, part: Participation) -> str:
        """What operators see without noise."""
        return OUTSIDE_THE_GUARANTEE


@admin.register(Update)
class UpdateAdmin(ReadOnlyAdmin):
    """What the server knows of the updates: all but their content."""

    short_manifest_digest = hex_column("manifest_digest", "Manifest digest")

    ordering = ("-received_at",)
    list_display = ("participation", "sample_count", "blob_bytes", "short_manifest_digest", "received_at")
    list_select_related = ("participation__device", "participation__round__federation")
    search_fields = ("participation__device__name", "blob_digest")
    date_hierarchy = "received_at"
    fields = (
        "participation", "sample_count", "metrics", "outside_the_guarantee", "blob_bytes", "blob_digest",
        "short_manifest_digest", "received_at",
    )  # fmt: skip
    readonly_fields = ("short_manifest_digest", "outside_the_guarantee")

    @display(description="Outside the guarantee")
    def outside_the_guarantee(self, update: Update) -> str:
        """What operators see without noise."""
        return OUTSIDE_THE_GUARANTEE


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    """Model versions; their content keys are never shown."""

    short_digest = hex_column("digest", "Digest")
    release = on_one(RELEASE)
    actions_detail = ("release",)

    ordering = ("-created_at",)
    list_display = ("__str__", "accuracy", "size_bytes", "short_digest", "created_at", "evaluated_at", "released_at")
    list_filter = ("federation",)
    list_select_related = ("federation",)
    search_fields = ("federation__name", "blob_digest")
    date_hierarchy = "created_at"
    fields = (
        "federation", "number", "short_digest", "size_bytes", "blob_digest", "blob_bytes",
        "privacy_epsilon", "privacy_delta", "metrics", "reported_metrics", "device_metrics", "evaluations",
        "evaluated_at", "evaluation_error",
        "released_at", "created_at",
    )  # fmt: skip
    readonly_fields = ("short_digest", "device_metrics")

    @display(description="Mean over the devices' own data, by samples")
    def device_metrics(self, version: ModelVersion) -> str:
        """The metrics that devices measured on what they hold out."""
        return ", ".join(f"{name} {value:.4g}" for name, value in version.device_metrics.items()) or "-"

    @display(description="Accuracy")
    def accuracy(self, version: ModelVersion) -> str:
        """The held-out accuracy, where the evaluator gives one."""
        value = version.metrics.get("accuracy")
        return "-" if value is None else f"{value:.3f}"


@admin.register(VersionEvaluation)
class VersionEvaluationAdmin(ReadOnlyAdmin):
    """What each device says of each version, measured on the data that it holds out."""

    ordering = ("-reported_at",)
    list_display = ("device", "version", "sample_count", "metrics", "reported_at")
    list_filter = ("version__federation",)
    list_select_related = ("device", "version__federation")
    search_fields = ("device__name", "version__federation__name")
    date_hierarchy = "reported_at"
    fields = ("device", "version", "sample_count", "metrics", "outside_the_guarantee", "reported_at")
    readonly_fields = ("outside_the_guarantee",)

    @display(description="Outside the guarantee")
    def outside_the_guarantee(self, evaluation: VersionEvaluation) -> str:
        """What operators see without noise."""
        return OUTSIDE_THE_GUARANTEE


@admin.register(PrivacyRelease)
class PrivacyReleaseAdmin(ReadOnlyAdmin):
    """The ledger of noised models that left the enclave, published or not."""

    ordering = ("-released_at",)
    list_display = ("__str__", "round", "version", "noise_multiplier", "epsilon_spent", "delta", "released_at")
    list_filter = ("federation",)
    list_select_related = ("federation", "round__federation", "version__federation")
    search_fields = ("federation__name",)
    date_hierarchy = "released_at"
    fields = (
        "federation", "number", "round", "version", "noise_multiplier", "epsilon_spent", "delta", "released_at",
    )  # fmt: skip


@admin.register(RoundStep)
class RoundStepAdmin(ReadOnlyAdmin):
    """How long each step of each round took."""

    ordering = ("-started_at",)
    list_display = ("round", "name", "started_at", "seconds")
    list_filter = ("name", "round__federation")
    list_select_related = ("round__federation",)
    search_fields = ("round__federation__name", "name")
    date_hierarchy = "started_at"
    fields = ("round", "name", "started_at", "seconds")
