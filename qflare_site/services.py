"""The verbs of the site."""

import traceback
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType

from celery.utils.serialization import UnpickleableExceptionWrapper
from django.conf import settings
from django.db import transaction

from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_site.models import ProcessHeartbeat, TaskFailure

FORGOTTEN_AFTER = timedelta(days=1)
FAILURES_KEPT = 1000


@transaction.atomic
def record_heartbeat(process: str, *, host: str, pid: int | None, now: datetime) -> None:
    """Note that a process lives, and forget hosts that have been silent for a day."""
    ProcessHeartbeat.objects.update_or_create(process=process, host=host, defaults={"pid": pid, "seen_at": now})
    ProcessHeartbeat.objects.filter(process=process, seen_at__lt=now - FORGOTTEN_AFTER).delete()


@transaction.atomic
def record_task_failure(
    task: str, error: BaseException, *, trace: TracebackType | None = None, now: datetime
) -> TaskFailure:
    """Note that a task ended with an error, without what the error says, and forget all but the newest 1,000.

    `trace` is the way that the error took, where it has lost its own.
    """
    place = _place_of(trace or error.__traceback__)
    failure = TaskFailure.objects.create(
        task=task[:200], error=_class_of(error)[:200], place=place[:300], failed_at=now
    )
    kept = TaskFailure.objects.order_by("-id").values_list("id", flat=True)
    last_kept = kept[FAILURES_KEPT - 1 : FAILURES_KEPT].first()
    if last_kept is not None:
        TaskFailure.objects.filter(id__lt=last_kept).delete()
    return failure


def _class_of(error: BaseException) -> str:
    if isinstance(error, UnpickleableExceptionWrapper):  # Celery's, around what it could not send to another process
        return f"{error.exc_module}.{error.exc_cls_name}{_code_of(error)}"
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {error.code}" if isinstance(error, Refusal) else name


def _code_of(wrapped: UnpickleableExceptionWrapper) -> str:
    """Return the code with which a refusal's words begin, if it is one of the catalogue."""
    code = str(wrapped.exc_args[0] if wrapped.exc_args else "").partition(":")[0]
    return f": {code}" if wrapped.exc_cls_name == Refusal.__name__ and code in CATALOGUE else ""


def _place_of(trace: TracebackType | None) -> str:
    """Return the innermost line of our own code that an error came through; none where it came through none."""
    ours = [
        f"{Path(frame.filename).relative_to(settings.BASE_DIR)}:{frame.lineno}, in {frame.name}"
        for frame in traceback.extract_tb(trace)
        if _is_ours(Path(frame.filename))
    ]
    return ours[-1] if ours else ""


def _is_ours(file: Path) -> bool:
    return file.is_relative_to(settings.BASE_DIR) and "site-packages" not in file.parts
