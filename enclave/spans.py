"""What the courier tells whoever traces it: that a sealed process is at work for a round, and its finished steps.

Nothing is traced before `trace_with`, and the sealed process itself never knows: it only says how long it took.
"""

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from structlog.contextvars import bound_contextvars


class Tracing(Protocol):
    """Takes spans."""

    def work(self, name: str, round_id: str) -> AbstractContextManager[object]:
        """Have a span around what follows."""

    def step(self, name: str, seconds: float) -> None:
        """Take a step that has just ended, inside the span that is open."""


class _NoTracing:
    def work(self, name: str, round_id: str) -> AbstractContextManager[object]:
        return nullcontext()

    def step(self, name: str, seconds: float) -> None:
        return None


_tracing: Tracing = _NoTracing()


def trace_with(tracing: Tracing | None) -> None:
    """Trace from now on, or with None no more."""
    global _tracing
    _tracing = tracing or _NoTracing()


@contextmanager
def round_followed(work: str, round_id: bytes) -> Iterator[None]:
    """Have the lines that are logged meanwhile name the round, and a span around them."""
    named = str(uuid.UUID(bytes=round_id))
    with bound_contextvars(round_id=named), _tracing.work(work, named):
        yield


def step_ended(name: str, seconds: float) -> None:
    """Tell of a step of the sealed process that has just ended."""
    _tracing.step(name, seconds)
