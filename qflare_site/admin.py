"""The site's own rows, and the rows of other packages: their admins look broken unless they wear our theme."""

from typing import Any

from axes.admin import IsLockedOutFilter
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django_celery_beat import admin as beat_admin
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

from operator_admin.base import ModelAdmin, ReadOnlyAdmin
from operator_admin.forms import AdminPasswordChangeForm, SelectWidget, TextWidget, UserChangeForm, UserCreationForm
from qflare_site.models import ProcessHeartbeat


@admin.register(ProcessHeartbeat)
class ProcessHeartbeatAdmin(ReadOnlyAdmin):
    """The last sign of life of each process."""

    list_display = ("process", "host", "pid", "seen_at")
    list_filter = ("process",)
    search_fields = ("host",)
    fields = ("process", "host", "pid", "seen_at")


class OperatorAdmin(UserAdmin, ModelAdmin):
    """People who sign in."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


class OperatorGroupAdmin(GroupAdmin, ModelAdmin):
    """What people may do, by group."""


class ThemedTaskSelectWidget(SelectWidget, beat_admin.TaskSelectWidget):
    """The list of registered tasks."""


class ThemedPeriodicTaskForm(beat_admin.PeriodicTaskForm):
    """The form of a schedule's entry."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = TextWidget()
        self.fields["regtask"].widget = ThemedTaskSelectWidget()


class ScheduleEntryAdmin(beat_admin.PeriodicTaskAdmin, ModelAdmin):
    """What beat sends, and when."""

    form = ThemedPeriodicTaskForm


class ScheduleAdmin(ModelAdmin):
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
