"""The media types in which devices speak before a session stands: bounded deterministic CBOR."""

from typing import IO, Any

from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal

CBOR_MEDIA_TYPE = "application/cbor"
DEFAULT_MAX_BODY_BYTES = 64 * 1024
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def stated_length(request: Request, maximum_bytes: int) -> int:
    """Return the request's Content-Length.

    Raises `Refusal`: "length-required" where it is missing, "message-too-large" above the maximum.
    """
    stated = request.META.get("CONTENT_LENGTH") or ("" if request.method in _METHODS_WITH_BODY else "0")
    if not stated.isascii() or not stated.isdigit() or len(stated) > 15:
        raise Refusal("length-required", "State the body's size in a Content-Length header.")
    if int(stated) > maximum_bytes:
        raise Refusal("message-too-large", f"The body may have at most {maximum_bytes} bytes here.")
    return int(stated)


class CborParser(BaseParser):
    """Reads at most `view.max_body_bytes` of deterministic CBOR."""

    media_type = CBOR_MEDIA_TYPE

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        view, request = parser_context["view"], parser_context["request"]
        maximum_bytes = getattr(view, "max_body_bytes", DEFAULT_MAX_BODY_BYTES)
        length = stated_length(request, maximum_bytes)
        body = stream.read(length)
        if len(body) != length:
            raise Refusal("malformed-message", "The body is shorter than its Content-Length.")
        return decode(body, what="request body", maximum_bytes=maximum_bytes)


class CborRenderer(BaseRenderer):
    """Writes answers as deterministic CBOR."""

    media_type = CBOR_MEDIA_TYPE
    format = "cbor"
    charset = None
    render_style = "binary"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return b"" if data is None else encode(data)


class CborView(APIView):
    """Base of the endpoints before a session stands: one CBOR map in, one out, no caller known yet."""

    authentication_classes = ()
    permission_classes = ()
    parser_classes = (CborParser,)
    renderer_classes = (CborRenderer,)
    max_body_bytes = DEFAULT_MAX_BODY_BYTES

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check what `APIView.initial` does and the stated length, without which DRF takes a body for empty."""
        super().initial(request, *args, **kwargs)
        stated_length(request, self.max_body_bytes)
