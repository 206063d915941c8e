"""OpenTelemetry as an option: spans from the request over the task to the steps of the sealed process.

Our own, few spans: the packages that instrument Django and Celery record addresses with their queries and the
words of exceptions, either of which may hold what must not leave. Attributes here are routes, states, names of
tasks and ids. Switched on by `QFLARE_OTLP_ENDPOINT`; without it nothing here makes or sends a span.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celery.signals import before_task_publish, task_postrun, task_prerun
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from structlog.contextvars import bound_contextvars, get_contextvars

from enclave import spans
from qflare_site.client_address import is_trusted_proxy

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

PARENT = "traceparent"
EXPORT_TIMEOUT_SECONDS = 5

_tracing: "SiteTracing | None" = None


def begin_tracing(endpoint: str) -> None:
    """Send spans to the OpenTelemetry collector at this address. Raises `ImproperlyConfigured` without the packages."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImproperlyConfigured(
            "QFLARE_OTLP_ENDPOINT needs OpenTelemetry: pip install -r requirements-otel.txt, or unset the variable."
        ) from error
    address = f"{endpoint.rstrip('/')}/v1/traces"
    trace_by(BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=EXPORT_TIMEOUT_SECONDS)))


def trace_by(processor: "SpanProcessor") -> "SiteTracing":
    """Give every span of this process to a processor."""
    global _tracing
    _tracing = SiteTracing(processor)
    spans.trace_with(_tracing)
    before_task_publish.connect(_tracing.task_is_sent, dispatch_uid="qflare tracing: a task is sent")
    task_prerun.connect(_tracing.task_begins, dispatch_uid="qflare tracing: a task begins")
    task_postrun.connect(_tracing.task_has_ended, dispatch_uid="qflare tracing: a task has ended")
    return _tracing


def end_tracing() -> None:
    """Hand over what waits, and trace no more."""
    global _tracing
    if _tracing is None:
        return
    for signal, what in ((before_task_publish, "is sent"), (task_prerun, "begins"), (task_postrun, "has ended")):
        signal.disconnect(dispatch_uid=f"qflare tracing: a task {what}")
    spans.trace_with(None)
    _tracing.provider.shutdown()
    _tracing = None


class SiteTracing:
    """Makes the spans of requests, tasks and sealed processes."""

    def __init__(self, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = TracerProvider(resource=Resource.create({"service.name": "qflare"}))
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("qflare")
        self._kinds = {kind.name: kind for kind in SpanKind}
        self._propagator = TraceContextTextMapPropagator()
        self._tasks: dict[str, tuple[ExitStack, Span]] = {}

    @contextmanager
    def span(self, name: str, kind: str, parent: Mapping[str, str], **attributes: str) -> "Iterator[Span]":
        """Have a span, below the parent that another process names. No exception's words are kept."""
        context = self._propagator.extract(parent) if parent else None
        with self._tracer.start_as_current_span(
            name,
            context,
            self._kinds[kind],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            with bound_contextvars(trace_id=f"{span.get_span_context().trace_id:032x}"):
                yield span

    def work(self, name: str, round_id: str) -> AbstractContextManager[object]:
        """Have a span around the work of a sealed process."""
        return self.span(f"enclave {name}", "INTERNAL", {}, round_id=round_id)

    def step(self, name: str, seconds: float) -> None:
        """Make the span of a step that has just ended."""
        ended = time.time_ns()
        span = self._tracer.start_span(f"enclave step {name[:40]}", start_time=ended - int(seconds * 1e9))
        span.end(ended)

    def task_is_sent(self, headers: dict[str, Any], **_named: Any) -> None:
        """Name the open span in the message, as the parent of the task's."""
        self._propagator.inject(headers)

    def task_begins(self, task_id: str, task: Any, **_named: Any) -> None:
        """Open the span of a task; not of one that beat sends every few seconds, which nobody has asked for."""
        parent = getattr(task.request, PARENT, None)
        if not isinstance(parent, str) and task.name in _periodic_tasks():
            return
        named = {PARENT: parent} if isinstance(parent, str) else {}
        stack = ExitStack()
        span = stack.enter_context(self.span(f"task {task.name}", "CONSUMER", named, **_ids() | {"task_id": task_id}))
        self._tasks[task_id] = stack, span

    def task_has_ended(self, task_id: str, state: str | None = None, **_named: Any) -> None:
        """Close the span of a task."""
        stack, span = self._tasks.pop(task_id, (ExitStack(), None))
        if span is not None:
            span.set_attribute("state", state or "UNKNOWN")
            _mark(span, failed=state == "FAILURE")
        stack.close()


class TracingMiddleware:
    """Makes a span of every request; a proxy that is trusted may name its parent."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        if _tracing is None:
            raise MiddlewareNotUsed
        self._get_response, self._tracing = get_response, _tracing

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        with self._tracing.span(str(request.method), "SERVER", _parent_of(request)) as span:
            response = self._get_response(request)
            route = request.resolver_match.route if request.resolver_match else "unresolved"
            span.update_name(f"{request.method} {route}")
            span.set_attributes({"http.route": route, "http.request.method": str(request.method)} | _ids())
            span.set_attribute("http.response.status_code", response.status_code)
            _mark(span, failed=response.status_code >= 500)
        return response


def _parent_of(request: HttpRequest) -> dict[str, str]:
    given = request.headers.get(PARENT, "")
    return {PARENT: given} if given and is_trusted_proxy(request.META.get("REMOTE_ADDR", "")) else {}


def _ids() -> dict[str, str]:
    """Return the ids that the log names too; who an operator is stays at home."""
    return {
        name: str(value) for name, value in get_contextvars().items() if name.endswith("_id") and name != "trace_id"
    }


def _periodic_tasks() -> set[str]:
    return {str(entry["task"]) for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def _mark(span: "Span", *, failed: bool) -> None:
    from opentelemetry.trace import StatusCode

    if failed:
        span.set_status(StatusCode.ERROR)
