"""Rate limits of the API: one DRF throttle over django-ratelimit's counters.

A view takes part by declaring `rate_limit_scope = "enrolment"` (a key of `settings.QFLARE_RATES`) and,
when the client's address is not the right thing to count, a method `rate_limit_key(request) -> str`.
A view without the attribute has no limit.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings
from django_ratelimit.core import get_usage
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError
from rest_framework.throttling import BaseThrottle

from qflare_protocol.errors import Refusal
from qflare_site.client_address import client_address

if TYPE_CHECKING:  # rest_framework.views imports this module through its settings
    from rest_framework.request import Request
    from rest_framework.views import APIView

RETRY_WHEN_UNAVAILABLE_SECONDS = 5
_STORE_ERRORS = (ConnectionInterrupted, RedisError, sqlite3.Error, OSError)

log = structlog.get_logger(__name__)


class RateLimit(BaseThrottle):
    """Count a request against its view's scope.

    When the counters cannot be reached, scopes in `QFLARE_RATES_FAIL_OPEN` go on without a limit and
    all others are refused with `service-unavailable`: enrolment and sessions are what an attacker
    would want unlimited.
    """

    def __init__(self) -> None:
        self._wait_seconds = 1

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Return whether the request is within its limit. Raises `Refusal` when that cannot be known."""
        scope = getattr(view, "rate_limit_scope", None)
        if scope is None:
            return True
        usage = _count(scope, _subject(request, view), request)
        if usage is None:
            return _without_counters(scope)
        self._wait_seconds = max(1, usage["time_left"])
        if usage["count"] == usage["limit"] + 1:
            raise _first_excess(scope, request, view, self._wait_seconds)
        return not usage["should_limit"]

    def wait(self) -> int:
        """Return the seconds until the window ends, at least 1."""
        return self._wait_seconds


def within_limit(scope: str, request: Request) -> bool:
    """Count something against its scope, by address; True while it is within it, or while nobody can tell."""
    return known_within_limit(scope, request) is not False


def known_within_limit(scope: str, request: Request) -> bool | None:
    """Count something against its scope, by address: whether it is within it, None while the counters are away."""
    usage = _count(scope, client_address(request), request)
    return None if usage is None else not usage["should_limit"]


def _subject(request: Request, view: APIView) -> str:
    own_key = getattr(view, "rate_limit_key", None)
    return own_key(request) if own_key else client_address(request)


def _count(scope: str, subject: str, request: Request) -> dict[str, Any] | None:
    """Count the request and return django-ratelimit's usage, or None when the counters are out of reach."""
    rate = settings.QFLARE_RATES[scope]
    try:
        usage = get_usage(request, group=scope, key=lambda *_: subject, rate=rate, increment=True)
    except _STORE_ERRORS as error:
        log.error("ratelimit.unavailable", scope=scope, error=type(error).__name__)
        return None
    # django-ratelimit answers a limit of 0 when its cache lost the counter between two steps.
    return usage if usage["limit"] else None


def _first_excess(scope: str, request: Request, view: APIView, wait_seconds: int) -> Refusal:
    """Return the refusal that opens an excess, with its event: one for each caller, scope and window."""
    known = hasattr(view, "rate_limit_key") and isinstance(getattr(request.user, "actor", None), str)
    caller = request.user.name if known else "stranger"
    actor = request.user.actor if known else "stranger"
    return rate_limited(wait_seconds).with_event(
        "rate.exceeded", actor=actor, caller=caller, scope=scope, rate=settings.QFLARE_RATES[scope]
    )


def rate_limited(seconds: int) -> Refusal:
    """Return the refusal of a request beyond its limit."""
    return Refusal(
        "rate-limited", f"This limit is used up; ask again in {seconds} seconds.", retry_after_seconds=seconds
    )


def _without_counters(scope: str) -> bool:
    if scope in settings.QFLARE_RATES_FAIL_OPEN:
        return True
    raise Refusal(
        "service-unavailable",
        "The request rate cannot be checked at the moment; ask again in a few seconds.",
        retry_after_seconds=RETRY_WHEN_UNAVAILABLE_SECONDS,
    )
