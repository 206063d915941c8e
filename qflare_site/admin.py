"""The site's own rows, and the rows of other packages: their admins look broken unless they wear our theme."""

from collections.abc import Callable
from typing import Any

from allauth.account.admin import EmailAddress  # from where it is registered, to be withdrawn below
from allauth.mfa.admin import Authenticator
from axes.admin import IsLockedOutFilter
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django_celery_beat import admin as beat_admin
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

from operator_access.people_forms import RolesForm
from operator_access.roles import Role
from operator_access.services.people import keep_out, let_in, set_roles
from operator_access.services.second_factor import reset_second_factor
from operator_admin.actions import takes_two
from operator_admin.base import ModelAdmin, ReadOnlyAdmin
from operator_admin.forms import (
    AdminPasswordChangeForm,
    ReasonForm,
    SelectWidget,
    TextWidget,
    UserChangeForm,
    UserCreationForm,
)
from operator_admin.fresh_sign_in import is_fresh, needs_fresh_sign_in, sign_in_again
from operator_admin.operations import DANGER, Answers, Operation, actor_of, on_one
from qflare_site.models import ProcessHeartbeat, TaskFailure
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


@admin.register(TaskFailure)
class TaskFailureAdmin(ReadOnlyAdmin):
    """The tasks that ended with an error."""

    list_display = ("failed_at", "task", "error", "place")
    list_filter = ("task",)
    search_fields = ("task", "error")
    date_hierarchy = "failed_at"
    fields = ("failed_at", "task", "error", "place")


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


GIVING_RIGHTS = ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")


class PermissionHolderAdmin(RecordedAdmin):
    """Rows that hold permissions: what was granted and withdrawn is an event, and asks for a fresh sign-in."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Ask for a fresh sign-in before the form, of who may do more than look."""
        if self.has_change_permission(request) and not is_fresh(request):
            return sign_in_again(request, back=request.get_full_path())
        return super().changeform_view(request, *args, **kwargs)

    @needs_fresh_sign_in
    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Ask for a fresh sign-in before somebody is deleted."""
        return super().delete_view(request, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Ask for a fresh sign-in before the selected are deleted."""
        if request.method == "POST" and not is_fresh(request):
            return sign_in_again(request, back=request.get_full_path())
        return super().changelist_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save, and remember what was held before."""
        stored = type(obj).objects.get(pk=obj.pk) if change else type(obj)()
        form.held_before = permissions_of(stored)  # not on this object, which all requests share
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save groups and permissions, and record the difference."""
        super().save_related(request, form, formsets, change)
        record_permissions_changed(form.instance, form.held_before, actor=actor_of(request))


def _set_roles(user: User, actor: str, answers: Answers) -> str:
    set_roles(user.pk, answers["roles"], reason=answers["reason"], actor=actor)
    return f"{user} has these roles and no others."


def _reset_second_factor(user: User, actor: str, answers: Answers) -> str:
    reset_second_factor(user, reason=answers["reason"], actor=actor)
    return f"{user} has no second factor any more; the next sign-in asks to enrol one."


def _keep_out(user: User, actor: str, answers: Answers) -> str:
    keep_out(user.pk, reason=answers["reason"], actor=actor)
    return f"{user} may not sign in any more, and their API keys are revoked."


def _let_in(user: User, actor: str, answers: Answers) -> str:
    let_in(user.pk, reason=answers["reason"], actor=actor)
    return f"{user} may sign in again."


SET_ROLES = Operation(
    "set_roles",
    "Set roles",
    "They have these roles from then on and no others.",
    _set_roles,
    RolesForm,
    sensitive=True,
    second_person="access",
)
RESET_SECOND_FACTOR = Operation(
    "reset_second_factor",
    "Reset the second factor",
    "Their authenticator app, passkeys and recovery codes are void. Who knows the password enrols the next ones: make "
    "sure, other than by e-mail, that it is them who ask.",
    _reset_second_factor,
    ReasonForm,
    DANGER,
    sensitive=True,
    second_person="access",
)
KEEP_OUT = Operation(
    "keep_out",
    "Keep out",
    "Their sessions end, their API keys are revoked and they may not sign in.",
    _keep_out,
    ReasonForm,
    DANGER,
    sensitive=True,
)
LET_IN = Operation(
    "let_in", "Let in", "They may sign in again.", _let_in, ReasonForm, sensitive=True, second_person="access"
)


class OperatorAdmin(UserAdmin, PermissionHolderAdmin):
    """People who sign in. Roles are set by an operation; single permissions and superusers are a superuser's matter."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    set_roles, reset_second_factor = on_one(SET_ROLES), on_one(RESET_SECOND_FACTOR)
    keep_out, let_in = on_one(KEEP_OUT), on_one(LET_IN)
    actions_detail = ("set_roles", "reset_second_factor", "keep_out", "let_in")

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether somebody may set roles and reset second factors, of this person if one is named."""
        return self.has_change_permission(request, obj if isinstance(obj, User) else None)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether somebody may change people; superusers are changed by superusers."""
        beyond = obj is not None and obj.is_superuser and not request.user.is_superuser
        return not beyond and super().has_change_permission(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what the form only shows: whatever gives rights, to all but superusers who need no second person."""
        shown = super().get_readonly_fields(request, obj)
        alone = request.user.is_superuser and not takes_two("access")
        return shown if alone else (*shown, *GIVING_RIGHTS)

    @needs_fresh_sign_in
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponseBase:  # noqa: A002
        """Change a password and record who did it in one transaction; Django's own view has none.

        Where access takes two persons nobody sets the password of another here: it would let them in as that one.
        """
        if takes_two("access"):
            raise PermissionDenied
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)


class OperatorGroupAdmin(GroupAdmin, PermissionHolderAdmin):
    """What people may do, by group; not to be changed where access takes two persons."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may add a group."""
        return not takes_two("access") and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether somebody may change what a group gives."""
        return not takes_two("access") and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether somebody may delete a group; nobody deletes a role: all its people would lose it at once."""
        is_role = obj is not None and obj.name in set(Role)
        return not is_role and not takes_two("access") and super().has_delete_permission(request, obj)


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
for _hidden in (Authenticator, EmailAddress):  # what is in the one is nobody's to see; the other is not used
    admin.site.unregister(_hidden)
# The imports above have registered the packages' own admins already, so their autodiscovery adds nothing later.
for _model, _admin in _REPLACED.items():
    admin.site.unregister(_model)
    admin.site.register(_model, _admin)
