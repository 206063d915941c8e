"""`POST /api/challenge`, `POST /api/authenticate` and `POST /api/session/close`."""

import uuid

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from devices.media_types import CborView
from qflare_protocol.fields import bytes_field, require_map
from sessions.sealed_views import SealedView, opened_cbor
from sessions.services import activate_session, challenge_device, end_session

_CHALLENGE = frozenset({"request"})
_RESPONSE = frozenset({"session_id", "ciphertext", "confirmation"})


class ChallengeView(CborView):
    """M1 is answered with M2."""

    rate_limit_scope = "challenge"

    def post(self, request: Request) -> Response:
        message = require_map(request.data, _CHALLENGE, "challenge message")
        return Response({"answer": challenge_device(bytes_field(message, "request"), now=timezone.now())})


class AuthenticateView(CborView):
    """M3 is answered with M4."""

    rate_limit_scope = "challenge"

    def post(self, request: Request) -> Response:
        message = require_map(request.data, _RESPONSE, "challenge response")
        confirmation = activate_session(
            uuid.UUID(bytes=bytes_field(message, "session_id", 16)),
            bytes_field(message, "ciphertext"),
            bytes_field(message, "confirmation"),
            now=timezone.now(),
        )
        return Response({"confirmation": confirmation})


class CloseSessionView(SealedView):
    """A device ends its own session; both sides forget the keys."""

    def post(self, request: Request) -> Response:
        require_map(opened_cbor(request), frozenset(), "close request")
        device, session_id = request.user, request.auth.session_id
        # The answer is sealed under the key this request opened with, which outlives the row's.
        end_session(session_id, reason="closed by the device", actor=device.actor, now=timezone.now())
        return Response({})
