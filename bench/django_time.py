"""What Django's object mapper takes of a call: building, sending and reading statements, and committing them."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, QuerySet
from django.db.models.query import RawQuerySet

_ENTRANCES: tuple[tuple[type, str], ...] = (
    (QuerySet, "filter"), (QuerySet, "select_related"), (QuerySet, "order_by"), (QuerySet, "_fetch_all"),
    (QuerySet, "first"), (QuerySet, "get"), (QuerySet, "exists"), (QuerySet, "update"), (QuerySet, "create"),
    (QuerySet, "delete"), (RawQuerySet, "_fetch_all"), (Model, "save"), (BaseDatabaseWrapper, "commit"),
)  # fmt: skip


class DjangoTime:
    """Adds up the CPU time of this thread inside the mapper, each moment once however deep its calls go."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count for as long as the context lasts."""
        with contextlib.ExitStack() as patched:
            for cls, name in _ENTRANCES:
                patched.enter_context(mock.patch.object(cls, name, self._counted(getattr(cls, name))))
            yield

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return call(*arguments, **options)
            self._inside, started = True, time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds += time.thread_time() - started
                self._inside = False

        return wrapped
