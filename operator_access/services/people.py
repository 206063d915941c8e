"""People who sign in: made at a shell, given roles, let in and kept out."""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from axes.models import AccessAttempt
from django.contrib.auth.models import Group, User
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.kinds import register_kind
from audit.services import record_event
from operator_access.code_limit import forget_attempts, locked_among
from operator_access.roles import Role
from qflare_protocol.errors import Refusal

_KINDS = {
    "operator.created": "Operator {operator} created with the roles: {roles}",
    "operator.roles_set": "Roles of operator {operator} changed from {before} to {roles}: {reason}",
    "operator.kept_out": "Operator {operator} may not sign in any more: {reason}",
    "operator.unlocked": "The sign-in as {operator} was unlocked; {failures} failed attempts are forgotten",
    "operator.let_in": "Operator {operator} may sign in again: {reason}",
}
_NONE = "none"


class WhenKeptOut(Protocol):
    """What an app above does in the transaction in which a person is kept out."""

    def __call__(self, maker: User, /, *, reason: str, actor: str, now: datetime) -> None: ...


_WHEN_KEPT_OUT: list[WhenKeptOut] = []


def when_kept_out(act: WhenKeptOut) -> None:
    """Let this be done, too, when a person is kept out."""
    if act not in _WHEN_KEPT_OUT:
        _WHEN_KEPT_OUT.append(act)


def register_people_events() -> None:
    """Register the kinds."""
    for kind, sentence in _KINDS.items():
        register_kind(kind, sentence)


@transaction.atomic
def create_operator(name: str, *, roles: Iterable[Role], password: str, actor: str) -> User:
    """Create somebody who may sign in. Raises `Refusal("conflict")` for a name that is taken, a weak password."""
    chosen = _in_order(roles)
    user = User(username=name, is_staff=bool(chosen))
    try:
        UnicodeUsernameValidator()(name)
        validate_password(password, user)
    except ValidationError as error:
        raise Refusal("conflict", " ".join(error.messages)) from error
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save(force_insert=True)
    except IntegrityError as error:
        raise Refusal("conflict", f"There is somebody named {name} already.") from error
    user.groups.set(_groups(chosen))
    _record("operator.created", user, actor, roles=_words(chosen))
    return user


def roles_of(user: User) -> list[Role]:
    """Return the roles of a person, in the order of the table."""
    return _in_order(Role(name) for name in user.groups.values_list("name", flat=True) if name in set(Role))


@transaction.atomic
def set_roles(user_id: int, roles: Iterable[Role], *, reason: str, actor: str) -> User:
    """Give a person these roles and no others; without any, the person sees nothing. Other groups stay.

    Raises `Refusal("conflict")` without a reason, or where nothing would change.
    """
    user, chosen = _person(user_id, reason), _in_order(roles)
    before = roles_of(user)
    if before == chosen:
        raise Refusal("conflict", f"{user} has exactly these roles already.")
    user.groups.remove(*_groups(before))
    user.groups.add(*_groups(chosen))
    User.objects.filter(pk=user.pk).update(is_staff=bool(chosen) or user.is_superuser)
    _record("operator.roles_set", user, actor, before=_words(before), roles=_words(chosen), reason=reason.strip())
    return user


@transaction.atomic
def keep_out(user_id: int, *, reason: str, actor: str) -> User:
    """Let a person sign in no more; open sessions end and their API keys are revoked. Raises `Refusal("conflict")`."""
    user = _switched(user_id, "operator.kept_out", active=False, reason=reason, actor=actor)
    for act in _WHEN_KEPT_OUT:
        act(user, reason=f"{user} is kept out: {reason.strip()}", actor=actor, now=timezone.now())
    return user


@transaction.atomic
def let_in(user_id: int, *, reason: str, actor: str) -> User:
    """Let a person sign in again. Raises `Refusal("conflict")`."""
    return _switched(user_id, "operator.let_in", active=True, reason=reason, actor=actor)


@transaction.atomic
def unlock(name: str, *, actor: str) -> None:
    """Forget failed passwords and codes of a name, so that it may sign in before the lock-out is over.

    Raises `Refusal("conflict")` where there is nothing to forget, `CountersUnavailable`.
    """
    user = User.objects.filter(username=name).first()
    attempts = AccessAttempt.objects.filter(username=name)
    failures = sum(attempts.values_list("failures_since_start", flat=True))
    locked_codes = user is not None and bool(locked_among([user.pk]))
    if not failures and not locked_codes:
        raise Refusal("conflict", f"The sign-in as {name} is not locked.")
    attempts.delete()
    if user is not None:
        forget_attempts(user.pk)
    record_event("operator.unlocked", actor=actor, payload={"operator": name, "failures": failures})


def _switched(user_id: int, kind: str, *, active: bool, reason: str, actor: str) -> User:
    user = _person(user_id, reason)
    if not User.objects.filter(pk=user.pk, is_active=not active).update(is_active=active):
        raise Refusal("conflict", f"{user} {'may sign in already' if active else 'is kept out already'}.")
    _record(kind, user, actor, reason=reason.strip())
    return user


def _person(user_id: int, reason: str) -> User:
    if not reason.strip():
        raise Refusal("conflict", "State the reason; it is kept in the audit log.")
    user = User.objects.select_for_update().filter(pk=user_id).first()
    if user is None:
        raise Refusal("not-found", "There is no such person.")
    return user


def _in_order(roles: Iterable[Role]) -> list[Role]:
    chosen = {Role(role) for role in roles}
    return [role for role in Role if role in chosen]


def _groups(roles: Iterable[Role]) -> list[Group]:
    return [Group.objects.get(name=role.value) for role in roles]


def _words(roles: list[Role]) -> str:
    return ", ".join(role.value for role in roles) or _NONE


def _record(kind: str, user: User, actor: str, **payload: str) -> None:
    names = {"operator": user.get_username(), "operator_id": str(user.pk)}
    record_event(kind, actor=actor, payload=names | payload)
