"""Which task a line of the log is about, and which request asked for it.

The id of a request travels in the header of the messages that it sends, from task to task, so that what it
set going can be followed into the workers.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextvars import Token
from typing import Any

from celery.signals import before_task_publish, task_postrun, task_prerun
from structlog.contextvars import bind_contextvars, get_contextvars, reset_contextvars

from qflare_site.request_log import is_request_id

MESSAGE_HEADER = "qflare_request_id"

_BOUND: dict[str, Mapping[str, Token[Any]]] = {}


@before_task_publish.connect(dispatch_uid="qflare log: a task is sent")
def _pass_on_request_id(headers: dict[str, Any], **_named: Any) -> None:
    request_id = get_contextvars().get("request_id")
    if request_id is not None:
        headers[MESSAGE_HEADER] = request_id


@task_prerun.connect(dispatch_uid="qflare log: a task begins")
def _bind_ids(task_id: str, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], **_named: Any) -> None:
    ids = {"task": task.name, "task_id": task_id} | _ids_among(task, args, kwargs)
    request_id = getattr(task.request, MESSAGE_HEADER, None)
    if is_request_id(request_id):  # whoever writes to the broker writes no lines of their own into the log
        ids["request_id"] = request_id
    _BOUND[task_id] = bind_contextvars(**ids)


@task_postrun.connect(dispatch_uid="qflare log: a task has ended")
def _forget_ids(task_id: str, **_named: Any) -> None:
    reset_contextvars(**_BOUND.pop(task_id, {}))


def _ids_among(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments whose names end in `_id`; a message with other arguments than the task's has none."""
    try:
        named = inspect.signature(task.run).bind(*args, **kwargs).arguments
    except TypeError:
        return {}
    return {name: str(value)[:64] for name, value in named.items() if name.endswith("_id")}
