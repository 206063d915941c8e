"""Retry with exponential backoff and full jitter, so that a fleet does not return all at once."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from edge_client.http import ServerUnreachable
from edge_client.measured import RETRIES

T = TypeVar("T")
log = structlog.get_logger(__name__)

Asked = Callable[[Callable[[], dict[str, Any]], str], dict[str, Any]]
"""Asks in a session until there is an answer; the text says what is asked for."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before attempt n: a random share of `base * 2**n` seconds, at most `maximum`."""

    base_seconds: float = 0.5
    maximum_seconds: float = 60.0
    attempts: int | None = None

    def wait_seconds(self, attempt: int, at_least: float = 0.0) -> float:
        """Return the seconds before the next attempt, never less than the server asked for."""
        ceiling = min(self.maximum_seconds, self.base_seconds * 2 ** min(attempt, 16))
        return at_least + random.uniform(0, ceiling)  # noqa: S311 - spreads load, protects nothing


def retrying(
    call: Callable[[], T],
    *,
    backoff: Backoff | None = None,
    sleep: Callable[[float], None] = time.sleep,
    what: str = "request",
) -> T:
    """Call until the server answers; a refusal ends it at once.

    Raises `ServerUnreachable` when the backoff's attempts are used up.
    """
    policy = backoff or Backoff()
    attempt = 0
    while True:
        try:
            return call()
        except ServerUnreachable as failure:
            attempt += 1
            if policy.attempts is not None and attempt >= policy.attempts:
                raise
            seconds = policy.wait_seconds(attempt, failure.retry_after_seconds)
            log.warning("server_unreachable", what=what, reason=str(failure), retry_in_seconds=round(seconds, 1))
            RETRIES.add()
            sleep(seconds)
