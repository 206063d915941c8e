"""Every refusal of the API as an RFC 9457 problem details object with a stable type."""

import math
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import DatabaseError, IntegrityError, InterfaceError, InternalError, OperationalError, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import defaults
from kombu.exceptions import OperationalError as BrokerError
from rest_framework import exceptions
from rest_framework.request import Request

from audit.services import record_event
from keyring.envelope import EnvelopeError
from keyring.kek import KekError
from qflare_protocol.errors import Refusal
from qflare_site.throttling import RETRY_WHEN_UNAVAILABLE_SECONDS, rate_limited, within_limit
from training.blob_store.contract import BlobStoreUnavailable
from training.storage_room import is_out_of_room

CONTENT_TYPE = "application/problem+json"
READ_ONLY_TRANSACTION = "25006"
"""PostgreSQL's SQLSTATE where a database takes no writes, as a standby does after a failover."""

log = structlog.get_logger(__name__)

# The first class that fits decides: a subclass stands before its base.
_REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (Http404, "not-found", "Nothing is found at this address that this caller may see."),
    (exceptions.NotFound, "not-found", "Nothing is found at this address that this caller may see."),
    (PermissionDenied, "permission-denied", "The caller is not permitted to do this."),
    (exceptions.PermissionDenied, "permission-denied", "The caller is not permitted to do this."),
    (exceptions.NotAuthenticated, "permission-denied", "Sign in or open a session first."),
    (exceptions.AuthenticationFailed, "authentication-failed", "The credentials presented are not accepted."),
    (exceptions.MethodNotAllowed, "method-not-allowed", "Use one of the methods named in the Allow header."),
    (exceptions.NotAcceptable, "not-acceptable", "Accept one of the media types this endpoint produces."),
    (exceptions.UnsupportedMediaType, "unsupported-media-type", "Send one of the media types this endpoint reads."),
    (exceptions.ParseError, "malformed-message", "The body is not what its Content-Type says."),
    (RequestDataTooBig, "message-too-large", "Send a smaller body."),
    (IntegrityError, "conflict", "The change conflicts with what is recorded; read the current state and try again."),
    (OperationalError, "service-unavailable", "The database is not available; ask again in a few seconds."),
    (InterfaceError, "service-unavailable", "The database is not available; ask again in a few seconds."),
    (KekError, "service-unavailable", "The key that secrets rest under is out of reach; ask again in a minute."),
    (EnvelopeError, "service-unavailable", "A secret that this needs does not open at the server; tell its operator."),
    (BrokerError, "service-unavailable", "The task queue is not available; ask again in a few seconds."),
)


def handle_exception(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Answer an exception of an API view; None lets an unforeseen one become a recorded 500.

    A refusal may carry an audit event. The transaction that was refused is rolled back by now, so the
    event gets one of its own.
    """
    refusal = as_refusal(error)
    if refusal is None:
        return None
    if refusal.problem.status >= 500:
        # What a key at rest refused names rows and never secrets; the caller is not told.
        reason = str(error) if isinstance(error, EnvelopeError | KekError) else ""
        log.error("request.failed", code=refusal.code, error=type(error).__name__, reason=reason)
    try:
        _record(refusal, context["request"])
    except DatabaseError as unrecorded:
        # What has to be in the log and cannot be is not answered as if it were.
        refusal = as_refusal(unrecorded) or refusal
        log.exception("event.not_recorded", code=refusal.code)
    answer = problem_response(refusal)
    if isinstance(error, exceptions.MethodNotAllowed):
        answer["Allow"] = ", ".join(context["view"].allowed_methods)
    return answer


def as_refusal(error: Exception) -> Refusal | None:
    """Return the refusal that an exception amounts to, or None for one that nobody foresaw."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, exceptions.Throttled):
        return rate_limited(max(1, math.ceil(error.wait or 1)))
    if isinstance(error, exceptions.ValidationError):
        return Refusal("malformed-message", "Some fields are not acceptable; see errors.", errors=error.detail)
    if isinstance(error, BlobStoreUnavailable):
        return _unavailable("The blob store is not available; ask again in a few seconds.")
    if isinstance(error, InternalError) and getattr(error.__cause__, "sqlstate", "") == READ_ONLY_TRANSACTION:
        return _unavailable("The database takes no changes at the moment; ask again in a few seconds.")
    if isinstance(error, OSError) and is_out_of_room(error):
        return _unavailable("The server has no room for this at the moment; ask again later.")
    for kind, code, detail in _REFUSALS:
        if isinstance(error, kind):
            return _unavailable(detail) if code == "service-unavailable" else Refusal(code, detail)
    return None


def _unavailable(detail: str) -> Refusal:
    return Refusal("service-unavailable", detail, retry_after_seconds=RETRY_WHEN_UNAVAILABLE_SECONDS)


class ProblemResponse(JsonResponse):
    """A problem details answer that no renderer touches; `data` is for views that seal it themselves."""

    def __init__(self, refusal: Refusal) -> None:
        self.data = refusal.as_problem_details()
        super().__init__(self.data, status=refusal.problem.status, content_type=CONTENT_TYPE)


def problem_response(refusal: Refusal) -> ProblemResponse:
    """Return the HTTP answer to a refusal, with `Retry-After` where it says when to ask again."""
    answer = ProblemResponse(refusal)
    if "retry_after_seconds" in refusal.extensions:
        answer["Retry-After"] = str(refusal.extensions["retry_after_seconds"])
    if refusal.problem.status == 401:
        answer["WWW-Authenticate"] = "QFLARE"  # RFC 9110, 11.6.1: a 401 names a scheme
    answer["Cache-Control"] = "no-store"
    return answer


def _record(refusal: Refusal, request: Request) -> None:
    """Record the refusal's event; they are counted by address, so that nobody can fill the log from outside."""
    event = refusal.audit_event
    if event is None:
        return
    if not within_limit("refusal-events", request):
        log.warning("event.not_recorded", kind=event.kind, code=refusal.code)
        return
    with transaction.atomic():
        record_event(event.kind, actor=event.actor, payload=event.payload)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer what Django refuses before any view: a problem under /api/ and /log/, a page elsewhere."""
    if _is_api(request):
        return problem_response(as_refusal(exception) or Refusal("malformed-message", "The request is not acceptable."))
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer 403: a problem under /api/ and /log/, a page elsewhere."""
    if _is_api(request):
        return problem_response(Refusal("permission-denied", "The caller is not permitted to do this."))
    return defaults.permission_denied(request, exception)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer 404: a problem under /api/ and /log/, a page elsewhere."""
    if _is_api(request):
        return problem_response(Refusal("not-found", "No endpoint of the API has this address."))
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Answer 500: a problem under /api/ and /log/ that tells nothing of the failure, a page elsewhere."""
    if _is_api(request):
        return problem_response(Refusal("internal-error", "The failure is recorded; try again later."))
    return defaults.server_error(request)


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith(("/api/", "/log/"))
