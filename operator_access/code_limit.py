"""Guessing of codes is limited, and a code of an authenticator app is taken once, over all processes of the site.

allauth counts in Django's default cache, which on the embedded profile each process has for itself. The counters
here are those of the rate limits, which all processes share; where they are out of reach no code is taken.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from allauth.mfa import app_settings
from django.conf import settings
from django.core.cache import BaseCache, caches
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError

_STORE_ERRORS = (ConnectionInterrupted, RedisError, sqlite3.Error, OSError)

log = structlog.get_logger(__name__)


class CountersUnavailable(Exception):  # noqa: N818 - it says what is so
    """The shared counters are out of reach."""


def another_attempt(user_id: int) -> bool:
    """Count an attempt at a person's code; False when too many were wrong within the time of a lock-out.

    Raises `CountersUnavailable`.
    """
    window: timedelta = settings.AXES_COOLOFF_TIME
    with _counters() as counters:
        if counters.add(_attempts_key(user_id), 1, timeout=int(window.total_seconds())):
            return True
        try:
            return bool(counters.incr(_attempts_key(user_id)) <= settings.AXES_FAILURE_LIMIT)
        except ValueError:  # it expired in between
            return True


def forget_attempts(user_id: int) -> None:
    """Begin to count anew, after a right code or when a lock-out is lifted. Raises `CountersUnavailable`."""
    with _counters() as counters:
        counters.delete(_attempts_key(user_id))


def locked_among(user_ids: Iterable[int]) -> set[int]:
    """Return those of some people of whom no code is taken at the moment. Raises `CountersUnavailable`."""
    people = {_attempts_key(user_id): user_id for user_id in user_ids}
    with _counters() as counters:
        attempts = counters.get_many(people)
    return {people[key] for key, count in attempts.items() if count >= settings.AXES_FAILURE_LIMIT}


def first_use(user_id: int, code: str) -> bool:
    """Note that a code of digits was used; False when it was before, while it is valid.

    Raises `CountersUnavailable`.
    """
    valid_seconds = (2 * app_settings.TOTP_TOLERANCE + 1) * app_settings.TOTP_PERIOD
    with _counters() as counters:
        return bool(counters.add(f"totp-used-{user_id}-{code}", 1, timeout=valid_seconds))


def _attempts_key(user_id: int) -> str:
    return f"second-factor-{user_id}"


@contextmanager
def _counters() -> Iterator[BaseCache]:
    try:
        yield caches["ratelimit"]
    except _STORE_ERRORS as error:
        log.error("second_factor.counters_unavailable", error=type(error).__name__)
        raise CountersUnavailable from error
