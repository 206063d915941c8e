"""Whose request a line of the log is about: an id of the request, and who and what is known of it.

The request's id, the operator and the ids in its path are bound here; device and session by `sessions`,
the operator of an API key by `operator_api`, each as soon as it knows them.
"""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.core.signals import request_finished
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from qflare_site.client_address import is_trusted_proxy

HEADER = "X-Request-ID"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_WELL_FORMED = re.compile(r"[A-Za-z0-9-]{8,64}")

log = structlog.get_logger("qflare.request")


def is_request_id(text: object) -> bool:
    """Return whether this may stand in the log as a request's id: 8 to 64 letters, digits and dashes."""
    return isinstance(text, str) and _WELL_FORMED.fullmatch(text) is not None


class RequestLogMiddleware:
    """Binds ids to every line that is written while a request is served, and answers its id in `X-Request-ID`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        clear_contextvars()  # what an earlier request of this thread could not clear, because its client went away
        request_id = _request_id(request)
        bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        response = self._get_response(request)
        response[HEADER] = request_id
        _note(request, response, time.perf_counter() - started)
        return response

    def process_view(self, request: HttpRequest, view: object, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Bind the ids in the path, and who is signed in; a request without their cookie asks no database for it."""
        bind_contextvars(**{name: str(value) for name, value in named.items() if name.endswith("_id")})
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            bind_contextvars(operator=request.user.get_username())


def _request_id(request: HttpRequest) -> str:
    """Return the id that a trusted proxy gave, or a new one: a stranger must not choose what the log says."""
    given = request.headers.get(HEADER, "")
    if is_request_id(given) and is_trusted_proxy(request.META.get("REMOTE_ADDR", "")):
        return given
    return uuid.uuid4().hex


def _note(request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
    """Write one line of the request: when debugging of every one, else of what operators change and of failures."""
    changing = "operator" in get_contextvars() and request.method not in SAFE
    write = log.info if changing or response.status_code >= 500 else log.debug
    route, status = request.resolver_match.route if request.resolver_match else "", response.status_code
    write("request.answered", method=request.method, route=route, status=status, seconds=round(seconds, 4))


def _request_is_over(**_named: Any) -> None:
    # Not at the end of the middleware: Django writes of a 404 or a 500 behind it, and a stream is sent after it.
    clear_contextvars()


request_finished.connect(_request_is_over, dispatch_uid="qflare log: a request is over")
