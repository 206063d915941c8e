"""Celery tells of tasks that fail by a signal alone; here it becomes a row that the console shows."""

from types import TracebackType
from typing import Any

import structlog
from celery.exceptions import WorkerLostError
from celery.signals import task_failure
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from qflare_site.services import record_task_failure

log = structlog.get_logger(__name__)


@task_failure.connect(dispatch_uid="qflare: a task has failed")
def keep_failure(
    sender: Any = None, exception: BaseException | None = None, traceback: Any = None, **_named: Any
) -> None:
    """Record the failure of a task; one that cannot be recorded, as without a database, is in the log alone."""
    if exception is None:
        return
    trace = traceback if isinstance(traceback, TracebackType) else None  # of a process that was lost it is text
    try:
        record_task_failure(getattr(sender, "name", "unknown"), exception, trace=trace, now=timezone.now())
    except (DatabaseError, InterfaceError) as error:
        log.error("task_failure.not_recorded", error=type(error).__name__)
    if isinstance(exception, WorkerLostError):
        # Told by the main process, which forks: it must not hold a connection that a child would inherit.
        connection.close()
