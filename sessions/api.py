"""The handshake, `POST /api/challenge` and `/api/authenticate`, and what renews or ends what it made."""

import uuid

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from audit.witnesses import store_cosignature
from devices.media_types import CborView
from keyring.services import log_succession
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map
from qflare_protocol.key_rotation import RotationRequest
from qflare_protocol.log_cosignature import MAX_BYTES as COSIGNATURE_BYTES
from qflare_protocol.suites import SUITES, largest_begin_bytes
from sessions.key_rotation import begin_key_rotation, finish_key_rotation
from sessions.qkd_keys import reserve_qkd_key
from sessions.rekeying import answer_rekey, finish_rekey, offer_rekey
from sessions.sealed_views import SealedView, opened_cbor
from sessions.services import activate_session, challenge_device, end_session, keys_of_session

_CHALLENGE = frozenset({"request"})
_REKEY_OFFER, _REKEY_ANSWER = frozenset({"offer"}), frozenset({"answer", "confirmation"})
_ROTATION_BEGIN, _ROTATION_FINISH = frozenset({"begin", "authorization"}), frozenset({"attempt", "confirmation"})
_TELLING = frozenset({"invalid-signature", "rekey-refused", "key-rotation-refused"})
AUTHORIZATION_BYTES = 32 * 1024
_WITNESS = frozenset({"cosignature"})
_RESPONSE = frozenset({"session_id", "ciphertext", "confirmation"})


class ChallengeView(CborView):
    """M1 is answered with M2."""

    rate_limit_scope = "challenge"

    def post(self, request: Request) -> Response:
        message = require_map(request.data, _CHALLENGE, "challenge message")
        answer = challenge_device(bytes_field(message, "request"), now=timezone.now())
        rotated = log_succession()
        more = {"log_succession": rotated} if rotated else {}
        return Response({"answer": answer.message, "succession": answer.succession} | more)


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

    ends_session = True
    renews_keys = True

    def post(self, request: Request) -> Response:
        require_map(opened_cbor(request), frozenset(), "close request")
        device, session_id = request.user, request.auth.session_id
        # The answer is sealed under the key this request opened with, which outlives the row's.
        end_session(session_id, reason="closed by the device", actor=device.actor, now=timezone.now())
        return Response({})


class KeyRenewalView(SealedView):
    """An endpoint that renews keys: as in a handshake, what does not verify there is an event."""

    renews_keys = True
    rate_limit_scope = "challenge"

    def handle_exception(self, exc: Exception) -> Response:
        """Have the log tell of a refusal that a thief of the session's keys meets."""
        if isinstance(exc, Refusal) and exc.code in _TELLING and exc.audit_event is None:
            device = self.request.user
            exc.with_event("request.refused", actor=device.actor, device=device.name, reason=exc.code)
        return super().handle_exception(exc)


class RekeyView(KeyRenewalView):
    """One step of a rekey: the device's offer, its wish for the server's, or its answer to that."""

    def post(self, request: Request) -> Response:
        message, now = opened_cbor(request), timezone.now()
        session_id = request.auth.session_id
        if set(message) == _REKEY_OFFER:
            return Response(answer_rekey(session_id, bytes_field(message, "offer"), now=now))
        if set(message) == _REKEY_ANSWER:
            confirmation = bytes_field(message, "confirmation", 64)
            finish_rekey(session_id, bytes_field(message, "answer"), confirmation, now=now)
            return Response({})
        require_map(message, frozenset(), "rekey request")
        return Response({"offer": offer_rekey(session_id, now=now)})


class RotateKeysView(KeyRenewalView):
    """K1 is answered with K2, and K3 with K4."""

    # Of every suite there is: a device of one that is not in use any more rotates its keys still.
    max_body_bytes = largest_begin_bytes(SUITES) + AUTHORIZATION_BYTES

    def post(self, request: Request) -> Response:
        message, now = opened_cbor(request), timezone.now()
        device, session_id = request.user, request.auth.session_id
        if set(message) == _ROTATION_BEGIN:
            begin = bytes_field(message, "begin", maximum=self.max_body_bytes)
            k1 = RotationRequest(begin, bytes_field(message, "authorization"))
            return Response({"challenge": begin_key_rotation(device, session_id, k1, now=now)})
        require_map(message, _ROTATION_FINISH, "key rotation")
        attempt, confirmation = bytes_field(message, "attempt", 16), bytes_field(message, "confirmation", 64)
        return Response({"confirmation": finish_key_rotation(device, attempt, confirmation, now=now)})


class WitnessView(SealedView):
    """A device cosigns the checkpoint that it has just found to continue all it had seen."""

    rate_limit_scope = "work"

    def post(self, request: Request) -> Response:
        message, now = require_map(opened_cbor(request), _WITNESS, "cosignature"), timezone.now()
        cosignature = bytes_field(message, "cosignature", maximum=COSIGNATURE_BYTES)
        keys = keys_of_session(request.auth.session, now)
        store_cosignature(request.user.name, keys.verifier, cosignature, now=now)
        return Response({})


class RequestQkdKeyView(CborView):
    """A device asks which QKD key to fetch for its next handshake."""

    rate_limit_scope = "challenge"

    def post(self, request: Request) -> Response:
        message = require_map(request.data, _CHALLENGE, "QKD key request")
        answer = reserve_qkd_key(bytes_field(message, "request"), now=timezone.now())
        return Response({"answer": answer.message, "succession": answer.succession})
