"""What the processes of a host measure of themselves: HTTP requests and Celery tasks.

Every process writes its numbers to a file of its own in one folder (prometheus_client's multiprocess
mode, which the settings turn on), and whichever is asked adds them all up.
"""

import time
from collections.abc import Callable
from typing import Any

from celery.signals import task_postrun, task_prerun
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
UNRESOLVED = "unresolved"
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})

REQUESTS = Counter("qflare_http_requests", "HTTP requests answered.", ["endpoint", "method", "status"])
REQUEST_SECONDS = Histogram(
    "qflare_http_request_seconds", "Time from the request's head to the answer's.", ["endpoint"], buckets=SECONDS
)
TASKS = Counter("qflare_tasks", "Celery tasks that ended.", ["task", "state"])
TASK_SECONDS = Histogram("qflare_task_seconds", "How long a Celery task ran.", ["task"], buckets=SECONDS)

_STARTED: dict[str, float] = {}


def registry() -> CollectorRegistry:
    """Return a registry of what all processes of this host have measured."""
    all_processes = CollectorRegistry()
    MultiProcessCollector(all_processes)
    return all_processes


class RequestMetricsMiddleware:
    """Counts and times every request under the name of its route: paths have ids, and would be without number."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        started = time.perf_counter()
        response = self._get_response(request)
        endpoint = _endpoint_of(request)
        REQUEST_SECONDS.labels(endpoint).observe(time.perf_counter() - started)
        method = request.method if request.method in METHODS else "other"
        REQUESTS.labels(endpoint, method, str(response.status_code)).inc()
        return response


def _endpoint_of(request: HttpRequest) -> str:
    match = request.resolver_match
    return UNRESOLVED if match is None else match.view_name or match.route or UNRESOLVED


@task_prerun.connect(dispatch_uid="qflare metrics: a task begins")
def _task_begins(task_id: str, **_named: Any) -> None:
    _STARTED[task_id] = time.perf_counter()


@task_postrun.connect(dispatch_uid="qflare metrics: a task has ended")
def _task_has_ended(task_id: str, task: Any, state: str | None = None, **_named: Any) -> None:
    started = _STARTED.pop(task_id, None)
    if started is not None:
        TASK_SECONDS.labels(task.name).observe(time.perf_counter() - started)
    TASKS.labels(task.name, state or "UNKNOWN").inc()
