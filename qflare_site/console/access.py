"""Operators and access: who may sign in, as what and by which second factor, and what waits for a second person."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from allauth.mfa.models import Authenticator
from axes.models import AccessAttempt
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from operator_access.code_limit import CountersUnavailable, locked_among
from operator_access.models import ApprovalRequest, ApprovalState
from operator_access.roles import MEANINGS, Role
from operator_access.services.people import unlock
from operator_access.services.second_factor import factor_in_words
from operator_admin.fresh_sign_in import is_fresh, sign_in_again
from operator_admin.operations import actor_of
from operator_admin.tones import tone_of
from operator_api.models import ApiKey
from qflare_protocol.errors import Refusal
from qflare_site.console.pages import console_page, show

PEOPLE_SHOWN, ROWS_SHOWN = 200, 100


@dataclass(frozen=True)
class FactorView:
    """One second factor, since when, and when it was used last."""

    words: str
    since: datetime
    last_used_at: datetime | None


@dataclass(frozen=True)
class PersonView:
    """Somebody who signs in; `locked` is None where the counters of wrong codes are out of reach."""

    id: int
    name: str
    state: str
    tone: str
    roles: list[str]
    factors: list[FactorView]
    last_sign_in_at: datetime | None
    locked: bool | None


@dataclass(frozen=True)
class LockOutView:
    """A name that may not sign in from an address for a while."""

    name: str
    address: str
    failures: int
    until: datetime


@dataclass(frozen=True)
class KeyView:
    """An API key."""

    key: ApiKey
    state: str
    tone: str


@dataclass(frozen=True)
class AccessView:
    """Everything on the page."""

    people: list[PersonView]
    people_count: int
    lock_outs: list[LockOutView]
    keys: list[KeyView]
    approvals: list[ApprovalRequest]
    meanings: list[tuple[str, str]]
    second_person: list[str]
    second_factor: bool


def read_access(now: datetime) -> AccessView:
    """Read the page at the time `now`, in a number of queries that does not grow with people."""
    pending = ApprovalRequest.objects.filter(state=ApprovalState.PENDING, expires_at__gt=now)
    return AccessView(
        people=_people(),
        people_count=User.objects.count(),
        lock_outs=_lock_outs(now),
        keys=[_key(key, now) for key in ApiKey.objects.select_related("maker").order_by("-created_at")[:ROWS_SHOWN]],
        approvals=list(pending[:ROWS_SHOWN]),
        meanings=[(role.value, MEANINGS[role]) for role in Role],
        second_person=settings.QFLARE_SECOND_PERSON,
        second_factor=settings.QFLARE_REQUIRE_SECOND_FACTOR,
    )


def _people() -> list[PersonView]:
    users = list(User.objects.prefetch_related("groups").order_by("-is_active", "username")[:PEOPLE_SHOWN])
    factors: dict[int, list[FactorView]] = defaultdict(list)
    for row in Authenticator.objects.filter(user__in=users).order_by("created_at"):
        factors[row.user_id].append(FactorView(factor_in_words(row), row.created_at, row.last_used_at))
    locked = _locked(users)
    return [_person(user, factors, None if locked is None else user.pk in locked) for user in users]


def _person(user: User, factors: Mapping[int, list[FactorView]], locked: bool | None) -> PersonView:
    state = "active" if user.is_active else "kept out"
    roles = [group.name for group in user.groups.all()]
    return PersonView(
        id=user.pk,
        name=user.get_username(),
        state=state,
        tone=tone_of("active" if user.is_active else "suspended"),
        roles=[*(["Superuser"] if user.is_superuser else []), *sorted(roles)],
        factors=factors.get(user.pk, []),
        last_sign_in_at=user.last_login,
        locked=locked,
    )


def _locked(users: Sequence[User]) -> set[int] | None:
    try:
        return locked_among(user.pk for user in users)
    except CountersUnavailable:
        return None


def _lock_outs(now: datetime) -> list[LockOutView]:
    locked = AccessAttempt.objects.filter(
        failures_since_start__gte=settings.AXES_FAILURE_LIMIT, attempt_time__gt=now - settings.AXES_COOLOFF_TIME
    ).order_by("-attempt_time")
    return [
        LockOutView(
            attempt.username or "", attempt.ip_address or "", attempt.failures_since_start,
            attempt.attempt_time + settings.AXES_COOLOFF_TIME,
        )
        for attempt in locked[:ROWS_SHOWN]
    ]  # fmt: skip


def _key(key: ApiKey, now: datetime) -> KeyView:
    state = "its maker is gone" if key.maker_is_gone and key.state(now) == "live" else key.state(now)
    return KeyView(key, state, tone_of({"live": "active", "its maker is gone": "warning"}.get(state, state)))


class NameForm(forms.Form):
    """Whose lock-out is lifted."""

    name = forms.CharField(max_length=150)


@console_page("auth.view_user", "operator_api.view_apikey", "axes.view_accessattempt")
def show_access(request: HttpRequest) -> HttpResponseBase:
    """Answer `/access`."""
    page = read_access(timezone.now())
    return show(request, "console/access.html", title="Operators and access", access=page)


@console_page("axes.delete_accessattempt", methods=("POST",))
def unlock_sign_in(request: HttpRequest) -> HttpResponseBase:
    """Answer `POST /access/unlock`: let a name sign in before its lock-out is over."""
    if not is_fresh(request):
        return sign_in_again(request, back=reverse("console:access"))
    form = NameForm(request.POST)
    name = form.cleaned_data["name"] if form.is_valid() else "nobody of this site"
    try:
        unlock(name, actor=actor_of(request))
    except Refusal as refusal:
        messages.error(request, refusal.detail)
    except CountersUnavailable:
        messages.error(request, "The counters cannot be reached at the moment; try again in a few seconds.")
    else:
        messages.success(request, f"The sign-in as {name} is unlocked.")
    return redirect("console:access")
