"""What operators do outside of services, as events of the log: sign in and out, change passwords, rows and permissions.

Django has no other hook for signing in than its signals, and none for a new password but the password
validators; both are used for the record alone.
"""

from typing import Any

from axes.signals import user_locked_out
from django.contrib.auth.models import AbstractBaseUser, Group, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import transaction
from django.db.models import Model
from django.http import HttpRequest

from audit.kinds import register_kind
from audit.services import record_event
from operator_admin.party import Party
from qflare_site.throttling import within_limit

_KINDS = {
    "operator.signed_in": "Operator {operator} signed in",
    "operator.signed_out": "Operator {operator} signed out",
    "operator.sign_in_failed": "A sign-in as {operator} failed",
    "operator.locked_out": "Sign-in as {operator} is locked after too many failures",
    "operator.password_changed": "The password of operator {operator} was changed",
    "operator.permissions_changed": "Permissions of {who} changed: granted {granted}; withdrawn {withdrawn}",
    "admin.added": "{model} {row} added by hand",
    "admin.changed": "{model} {row} changed by hand: {fields}",
    "admin.deleted": "{model} {row} deleted by hand",
}
MAX_NAME = 150
"""Of what somebody typed as a name: as long as a name can be."""
_NONE = "nothing"


def register_operator_events() -> None:
    """Register the kinds, and listen to Django's and axes' signals of signing in."""
    for kind, sentence in _KINDS.items():
        register_kind(kind, sentence)
    user_logged_in.connect(_signed_in, dispatch_uid="operator events")
    user_logged_out.connect(_signed_out, dispatch_uid="operator events")
    user_login_failed.connect(_sign_in_failed, dispatch_uid="operator events")
    user_locked_out.connect(_locked_out, dispatch_uid="operator events")


def _signed_in(sender: object, user: AbstractBaseUser, **_: Any) -> None:
    _record("operator.signed_in", _actor(user), operator=user.get_username())


def _signed_out(sender: object, user: AbstractBaseUser | None, **_: Any) -> None:
    if user is not None:  # a session whose operator is gone ends as well
        _record("operator.signed_out", _actor(user), operator=user.get_username())


def _sign_in_failed(sender: object, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    _record_of_stranger("operator.sign_in_failed", credentials.get("username"), request)


def _locked_out(sender: object, username: str | None, request: HttpRequest | None = None, **_: Any) -> None:
    _record_of_stranger("operator.locked_out", username, request)


def _record_of_stranger(kind: str, name: object, request: HttpRequest | None) -> None:
    """Record what anybody can bring about; by address, so that nobody fills the log from outside."""
    if request is None or within_limit("refusal-events", request):
        _record(kind, "stranger", operator=str(name or "")[:MAX_NAME])


class PasswordChangeRecorder:
    """A password validator that accepts every password and records that one was set."""

    def validate(self, password: str, user: AbstractBaseUser | None = None) -> None:
        """Accept it: other validators judge."""

    def get_help_text(self) -> str:
        """Return nothing: there is no rule to explain."""
        return ""

    def password_changed(self, password: str, user: AbstractBaseUser) -> None:
        """Record that the password was set, not what it is; who asked for it stands in the event beside."""
        _record("operator.password_changed", "system", operator=user.get_username())


def record_row_added(row: Model, *, actor: str) -> None:
    """Record that an operator added a row by hand, in the caller's transaction."""
    record_event("admin.added", actor=actor, payload=_names(row))


def record_row_changed(row: Model, fields: list[str], *, actor: str) -> None:
    """Record which fields of a row an operator changed by hand, in the caller's transaction."""
    record_event("admin.changed", actor=actor, payload=_names(row) | {"fields": ", ".join(fields) or _NONE})


def record_row_deleted(row: Model, *, actor: str) -> None:
    """Record that an operator deleted a row by hand, in the caller's transaction."""
    record_event("admin.deleted", actor=actor, payload=_names(row))


def permissions_of(who: User | Group) -> frozenset[str]:
    """Return what a person or a group may do, as words: flags, groups, permissions."""
    if who.pk is None:
        return frozenset()
    if isinstance(who, Group):
        return frozenset(_permission_names(who.permissions))
    flags = {name for name in ("is_active", "is_staff", "is_superuser") if getattr(who, name)}
    groups = {f"group {name}" for name in who.groups.values_list("name", flat=True)}
    return frozenset(flags | groups | set(_permission_names(who.user_permissions)))


def record_permissions_changed(who: User | Group, before: frozenset[str], *, actor: str) -> None:
    """Record what was granted and withdrawn since `before`, if anything was, in the caller's transaction."""
    after = permissions_of(who)
    if after == before:
        return
    payload = {
        "who": f"{who._meta.verbose_name} {who}",
        "who_id": str(who.pk),
        "granted": ", ".join(sorted(after - before)) or _NONE,
        "withdrawn": ", ".join(sorted(before - after)) or _NONE,
    }
    record_event("operator.permissions_changed", actor=actor, payload=payload)


def _permission_names(permissions: Any) -> list[str]:
    return [f"{app}.{name}" for app, name in permissions.values_list("content_type__app_label", "codename")]


def _names(row: Model) -> dict[str, str]:
    return {"model": str(row._meta.verbose_name), "row": str(row), "row_id": str(row.pk)}


def _actor(user: AbstractBaseUser) -> str:
    return Party("operator", user.get_username(), user.pk)


def _record(kind: str, actor: str, **payload: str) -> None:
    with transaction.atomic():
        record_event(kind, actor=actor, payload=payload)
