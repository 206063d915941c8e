"""Second factors: what of them is an event, and how a lost one is taken away."""

from typing import Any

from allauth.account.internal.flows.login import record_authentication
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authentication_failed, authenticator_used
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest

from audit.kinds import register_kind
from audit.services import record_event
from operator_access.code_limit import CountersUnavailable, forget_attempts
from operator_access.services.factor_secrets import forget_secrets_of_no_factor
from operator_admin.party import Party
from qflare_protocol.errors import Refusal

_KINDS = {
    "operator.factor_enrolled": "Operator {operator} enrolled a second factor: {factor}",
    "operator.factor_removed": "Operator {operator} removed a second factor: {factor}",
    "operator.recovery_code_used": "Operator {operator} used a recovery code; {left} are left",
    "operator.second_factor_failed": "A second factor of {operator} was wrong",
    "operator.second_factor_reset": "The second factors of operator {operator} were taken away: {reason}",
}
SECOND_FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)
"""Recovery codes stand in for one of these, and are none."""
_WORDS = {
    Authenticator.Type.TOTP: "authenticator app",
    Authenticator.Type.WEBAUTHN: "passkey",
    Authenticator.Type.RECOVERY_CODES: "recovery codes",
}


def register_second_factor_events() -> None:
    """Register the kinds, and listen to allauth's signals for the record alone: it has no other hook."""
    for kind, sentence in _KINDS.items():
        register_kind(kind, sentence)
    authenticator_used.connect(_used, dispatch_uid="second factor events")
    authentication_failed.connect(_failed, dispatch_uid="second factor events")


def has_second_factor(user: Any) -> bool:
    """Whether a person has enrolled one."""
    return Authenticator.objects.filter(user_id=user.pk, type__in=SECOND_FACTORS).exists()


def factors_of(user: Any) -> dict[int, Authenticator]:
    """Return the factors of a person by key, in the order in which they were enrolled."""
    return {row.pk: row for row in Authenticator.objects.filter(user_id=user.pk).order_by("pk")}


def factor_in_words(factor: Authenticator) -> str:
    """Return what a factor is called."""
    word = _WORDS[Authenticator.Type(factor.type)]
    return f"{word} {factor.data['name']}" if factor.type == Authenticator.Type.WEBAUTHN else word


def record_factor_changes(request: HttpRequest, before: dict[int, Authenticator], *, shown: bool) -> None:
    """Record what a person has enrolled and removed since `before`, in the caller's transaction.

    Whoever enrols a first factor, or another one after one was `shown`, has shown it: this session counts as one with
    a second factor. A session that owes the factor does not pay with one that it made itself.
    """
    user, after = request.user, factors_of(request.user)
    actor = Party("operator", user.get_username(), user.pk)
    added = [after[key] for key in after.keys() - before.keys()]
    removed = [before[key] for key in before.keys() - after.keys()]
    for kind, rows in (("operator.factor_enrolled", added), ("operator.factor_removed", removed)):
        for row in sorted(rows, key=lambda one: one.pk):
            _record(kind, actor, operator=user.get_username(), factor=factor_in_words(row))
    for row in added:
        if shown or (row.type in SECOND_FACTORS and not _any_second_factor(before)):
            record_authentication(request, user, "mfa", enrolled=True, id=row.pk, type=row.type)
    if added or removed:  # a secret that waits for its first code is of no factor yet
        forget_secrets_of_no_factor(user.pk)


def _any_second_factor(factors: dict[int, Authenticator]) -> bool:
    return any(row.type in SECOND_FACTORS for row in factors.values())


@transaction.atomic
def reset_second_factor(user: User, *, reason: str, actor: str) -> None:
    """Take away all factors of a person, who then has to enrol new ones after the next password.

    Raises `Refusal("conflict")` without a reason, or where there are none; "service-unavailable" while wrong codes
    cannot be forgotten, and then nothing is changed.
    """
    if not reason.strip():
        raise Refusal("conflict", "State the reason; it is kept in the audit log.")
    taken, _ = Authenticator.objects.filter(user=user).delete()
    if not taken:
        raise Refusal("conflict", f"{user} has no second factor.")
    forget_secrets_of_no_factor(user.pk)
    _forget_attempts(user)
    name = user.get_username()
    _record("operator.second_factor_reset", actor, operator=name, operator_id=str(user.pk), reason=reason.strip())


def _forget_attempts(user: User) -> None:
    try:
        forget_attempts(user.pk)
    except CountersUnavailable as error:
        raise Refusal(
            "service-unavailable", "The counters of wrong codes cannot be reached; nothing was changed. Try again."
        ) from error


def _used(sender: object, user: User, authenticator: Authenticator, **_: Any) -> None:
    if authenticator.type != Authenticator.Type.RECOVERY_CODES:
        return
    stored = Authenticator.objects.get(pk=authenticator.pk)
    actor, left = Party("operator", user.get_username(), user.pk), len(stored.wrap().get_unused_codes())
    _record("operator.recovery_code_used", actor, operator=user.get_username(), left=left)


def _failed(sender: object, user: User, **_: Any) -> None:
    _record("operator.second_factor_failed", "stranger", operator=user.get_username())


def _record(kind: str, actor: str, **payload: Any) -> None:
    with transaction.atomic():
        record_event(kind, actor=actor, payload=payload)
