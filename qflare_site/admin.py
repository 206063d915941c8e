"""The site's own rows, and the rows of other packages: their admins look broken unless they wear our theme."""

from collections.abc import Callable
from typing import Any

from axes.admin import IsLockedOutFilter
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django_celery_beat import admin as beat_admin
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

from operator_admin.base import ModelAdmin, ReadOnlyAdmin
from operator_admin.forms import AdminPasswordChangeForm, SelectWidget, TextWidget, UserChangeForm, UserCreationForm
from operator_admin.operations import actor_of
from qflare_site.models import ProcessHeartbeat
from qflare_site.operator_events import (
    permissions_of,
    record_permissions_changed,
    record_row_added,
    record_row_changed,
    record_row_deleted,
)


@admin.register(ProcessHeartbeat)
class ProcessHeartbeatAdmin(ReadOnlyAdmin):
    """The last sign of life of each process."""

    list_display = ("process", "host", "pid", "seen_at")
    list_filter = ("process",)
    search_fields = ("host",)
    fields = ("process", "host", "pid", "seen_at")


class RecordedAdmin(ModelAdmin):
    """Rows of other packages, which operators change by hand; every change is an event of the log."""

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> LogEntry:
        """Record that a row was added."""
        with transaction.atomic():
            record_row_added(obj, actor=actor_of(request))
            return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> LogEntry:
        """Record which fields of a row were changed."""
        with transaction.atomic():
            record_row_changed(obj, _changed_fields(message), actor=actor_of(request))
            return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Record that rows are about to be deleted."""
        with transaction.atomic():
            for row in queryset:
                record_row_deleted(row, actor=actor_of(request))
            return super().log_deletions(request, queryset)


def _changed_fields(message: Any) -> list[str]:
    """Return the fields that Django's change message names; it is a list of maps, or a text."""
    if not isinstance(message, list):
        return [str(message)]
    return [field for part in message for detail in part.values() for field in detail.get("fields", ())]


class PermissionHolderAdmin(RecordedAdmin):
    """Rows that hold permissions: what was granted and withdrawn is an event."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save, and remember what was held before."""
        stored = type(obj).objects.get(pk=obj.pk) if change else type(obj)()
        form.held_before = permissions_of(stored)  # not on this object, which all requests share
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save groups and permissions, and record the difference."""
        super().save_related(request, form, formsets, change)
        record_permissions_changed(form.instance, form.held_before, actor=actor_of(request))


class OperatorAdmin(UserAdmin, PermissionHolderAdmin):
    """People who sign in."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponseBase:  # noqa: A002
        """Change a password and record who did it in one transaction; Django's own view has none."""
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)


class OperatorGroupAdmin(GroupAdmin, PermissionHolderAdmin):
    """What people may do, by group."""


class ThemedTaskSelectWidget(SelectWidget, beat_admin.TaskSelectWidget):
    """The list of registered tasks."""


class ThemedPeriodicTaskForm(beat_admin.PeriodicTaskForm):
    """The form of a schedule's entry."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = TextWidget()
        self.fields["regtask"].widget = ThemedTaskSelectWidget()


def _recorded_action(name: str, what: str) -> Callable[..., Any]:
    """Return an action of beat's admin that records what it does to each selected row."""
    perform = getattr(beat_admin.PeriodicTaskAdmin, name)

    def act(model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        with transaction.atomic():
            for row in queryset:
                record_row_changed(row, [what], actor=actor_of(request))
            return perform(model_admin, request, queryset)

    act.__name__ = name
    decorated: Callable[..., Any] = admin.action(description=perform.short_description)(act)
    return decorated


class ScheduleEntryAdmin(beat_admin.PeriodicTaskAdmin, RecordedAdmin):
    """What beat sends, and when."""

    form = ThemedPeriodicTaskForm
    enable_tasks = _recorded_action("enable_tasks", "enabled")
    disable_tasks = _recorded_action("disable_tasks", "disabled")
    toggle_tasks = _recorded_action("toggle_tasks", "enabled or disabled")
    run_tasks = _recorded_action("run_tasks", "run at once")


class ScheduleAdmin(RecordedAdmin):
    """Intervals, crontabs, solar events and moments that entries refer to."""


class SignInAttemptAdmin(ReadOnlyAdmin):
    """Failed attempts that count towards a lock; what was typed into the form is not shown."""

    list_display = ("attempt_time", "username", "ip_address", "failures_since_start", "path_info")
    list_filter = (IsLockedOutFilter,)
    search_fields = ("username", "ip_address")
    date_hierarchy = "attempt_time"
    fields = ("attempt_time", "username", "ip_address", "user_agent", "path_info", "failures_since_start")


class SignInLogAdmin(ReadOnlyAdmin):
    """Who signed in and out."""

    list_display = ("attempt_time", "username", "ip_address", "logout_time")
    search_fields = ("username", "ip_address")
    date_hierarchy = "attempt_time"
    fields = ("attempt_time", "logout_time", "username", "ip_address", "user_agent", "path_info")


class SignInFailureAdmin(ReadOnlyAdmin):
    """Every failed attempt."""

    list_display = ("attempt_time", "username", "ip_address", "locked_out")
    list_filter = ("locked_out",)
    search_fields = ("username", "ip_address")
    date_hierarchy = "attempt_time"
    fields = ("attempt_time", "username", "ip_address", "user_agent", "path_info", "locked_out")


_REPLACED = {
    User: OperatorAdmin,
    Group: OperatorGroupAdmin,
    PeriodicTask: ScheduleEntryAdmin,
    IntervalSchedule: ScheduleAdmin,
    CrontabSchedule: ScheduleAdmin,
    ClockedSchedule: ScheduleAdmin,
    SolarSchedule: ScheduleAdmin,
    AccessAttempt: SignInAttemptAdmin,
    AccessLog: SignInLogAdmin,
    AccessFailureLog: SignInFailureAdmin,
}
# The imports above have registered the packages' own admins already, so their autodiscovery adds nothing later.
for _model, _admin in _REPLACED.items():
    admin.site.unregister(_model)
    admin.site.register(_model, _admin)
