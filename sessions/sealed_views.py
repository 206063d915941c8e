"""Sealed requests in Django REST framework: an authentication class, a parser, a renderer and the
base view that joins them. A view derived from `SealedView` sees plain data and answers plain data.
"""

import json
from datetime import datetime
from typing import IO, Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import NotAuthenticated
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from structlog.contextvars import bind_contextvars

from devices.media_types import CBOR_MEDIA_TYPE, DEFAULT_MAX_BODY_BYTES, stated_length
from devices.models import Device
from devices.row_security import confined_to, confined_transaction
from devices.services import note_device_seen
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.sealed_request import (
    CONTENT_TYPE_HEADER,
    SALT_HEADER,
    SCHEME,
    SEALED_MEDIA_TYPE,
    Authorization,
    SealedAnswer,
    Target,
)
from sessions.exchanges import OpenedRequest, accept_request, open_request, store_answer

PROBLEM_MEDIA_TYPE = "application/problem+json"


class SealedRequestAuthentication(BaseAuthentication):
    """Authenticates a device by opening its sealed request; the plaintext is `request.auth.body`."""

    def authenticate(self, request: Request) -> tuple[Device, OpenedRequest] | None:
        header = request.headers.get("Authorization", "")
        if not header.startswith(SCHEME):
            return None
        view = request.parser_context["view"]
        length = stated_length(request, getattr(view, "max_body_bytes", DEFAULT_MAX_BODY_BYTES))
        target = Target(
            request.method or "", request.get_full_path(), request.headers.get(CONTENT_TYPE_HEADER, ""), length
        )
        authorization = Authorization.from_header(header)
        opened = open_request(authorization, target, request._request, now=timezone.now())
        bind_contextvars(device=opened.device.name, device_id=str(opened.device.id), session_id=str(opened.session_id))
        request._stream = opened.body  # what DRF hands to the parser: the raw body has been read
        return opened.device, opened

    def authenticate_header(self, request: Request) -> str:
        return SCHEME


class SealedRequestParser(BaseParser):
    """Gives the opened plaintext: decoded CBOR, or the file itself for other inner content types."""

    media_type = SEALED_MEDIA_TYPE

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        opened: OpenedRequest = parser_context["request"].auth
        if opened.target.content_type != CBOR_MEDIA_TYPE:
            return opened.body
        return decode(opened.body.read(), what="request body", maximum_bytes=opened.target.length)


class SealedAnswerRenderer(BaseRenderer):
    """Writes a sealed answer's body, and unsealed problem details where no session could be opened."""

    media_type = SEALED_MEDIA_TYPE
    format = "sealed"
    charset = None
    render_style = "binary"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        if isinstance(data, SealedAnswer):
            return data.body
        return b"" if data is None else json.dumps(data).encode()


class OnlySealed(BaseContentNegotiation):
    """A sealed endpoint has one representation, whatever the Accept header says."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        return next((parser for parser in parsers if request.content_type == parser.media_type), None)

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class SealedView(APIView):
    """Base of the endpoints inside a session: one transaction accepts, serves and answers a request."""

    authentication_classes = (SealedRequestAuthentication,)
    permission_classes = (IsAuthenticated,)
    parser_classes = (SealedRequestParser,)
    renderer_classes = (SealedAnswerRenderer,)
    content_negotiation_class = OnlySealed
    ends_session = False  # the answers of a session go with it
    renews_keys = False  # what a device may do though its session's allowance is used up or its own keys are due

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Serve a request as `APIView.dispatch` does, with the handler inside the exchange.

        The database shows that device's rows alone to `prepare`, and to the transaction from the acceptance of the
        request's number on.
        """
        self.args, self.kwargs = args, kwargs
        drf_request = self.initialize_request(request, *args, **kwargs)
        self.request, self.headers = drf_request, self.default_response_headers
        try:
            self.initial(drf_request, *args, **kwargs)
            response = self._exchange(drf_request)
        except Exception as error:  # noqa: BLE001 - as in APIView.dispatch: handle_exception re-raises the unknown
            response = self._sealed_problem(drf_request, self.handle_exception(error))
        finally:
            _close_body(drf_request)
        self.response = self.finalize_response(drf_request, response, *args, **kwargs)
        return self.response

    def _exchange(self, request: Request) -> Response:
        opened: OpenedRequest = request.auth
        if request.method.lower() not in self.http_method_names or not hasattr(self, request.method.lower()):
            self.http_method_not_allowed(request)
        now = timezone.now()
        if self.prepares:
            with confined_to(opened.device.id):
                self.prepare(request)
        with confined_transaction() as confine:
            answer = accept_request(opened, now=now, confine=confine, renews_keys=self.renews_keys)
            if answer is None:
                self._require_current_keys(opened.device, now)
                response = getattr(self, request.method.lower())(request, *self.args, **self.kwargs)
                answer = opened.seal(response.status_code, CBOR_MEDIA_TYPE, encode(response.data))
                if not self.ends_session:
                    store_answer(opened, answer)
        # Not in that transaction: the device's row would be locked for as long as the session's.
        note_device_seen(opened.device, now=now)
        return _sealed_response(answer)

    def _require_current_keys(self, device: Device, now: datetime) -> None:
        if not self.renews_keys and device.must_rotate_keys(now):
            raise Refusal(
                "key-rotation-required", "The device's keys are due; register new ones (POST /api/keys/rotate)."
            )

    @property
    def prepares(self) -> bool:
        """Whether the view does anything before its transaction."""
        return type(self).prepare is not SealedView.prepare

    def prepare(self, request: Request) -> None:
        """Do what takes long before the transaction begins; it must be harmless to do again."""

    def _sealed_problem(self, request: Request, response: Response) -> Response:
        opened = getattr(request, "_auth", None)
        if not isinstance(opened, OpenedRequest):
            return response
        body = json.dumps(response.data).encode()
        sealed = _sealed_response(opened.seal(response.status_code, PROBLEM_MEDIA_TYPE, body))
        for name in ("Retry-After",):
            if response.headers.get(name):
                sealed[name] = response.headers[name]
        return sealed

    def permission_denied(self, request: Request, message: str | None = None, code: str | None = None) -> None:
        """Refuse what came without a sealed request's header."""
        if isinstance(request.auth, OpenedRequest):
            super().permission_denied(request, message, code)
        raise NotAuthenticated(f"This endpoint takes sealed requests only; send an {SCHEME} Authorization header.")

    def rate_limit_key(self, request: Request) -> str:
        """Limit by device: the address says nothing about who opened a session."""
        return f"device:{request.user.id}"


def _sealed_response(answer: SealedAnswer) -> Response:
    response = Response(answer, status=answer.status)
    response[CONTENT_TYPE_HEADER] = answer.content_type
    response[SALT_HEADER] = answer.salt.hex()
    return response


def _close_body(request: Request) -> None:
    opened = getattr(request, "_auth", None)
    if isinstance(opened, OpenedRequest):
        opened.body.close()


def opened_cbor(request: Request) -> dict[str, Any]:
    """Return the request's CBOR map.

    Raises `Refusal`: "unsupported-media-type" for another inner content type, "malformed-message" for another body.
    """
    if request.auth.target.content_type != CBOR_MEDIA_TYPE:
        raise Refusal("unsupported-media-type", f"The sealed body of this request is {CBOR_MEDIA_TYPE}.")
    if not isinstance(request.data, dict):
        raise Refusal("malformed-message", "The request body must be a CBOR map.")
    return request.data
