"""`POST /api/enroll`: both steps of an enrolment."""

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from devices.media_types import CborView
from enrollment.services import begin_enrolment, begin_limit, finish_enrolment
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map

_BEGIN = frozenset({"begin"})
_FINISH = frozenset({"attempt", "sealed_token"})


class EnrollView(CborView):
    """E1 is answered with E2, and E3 with E4."""

    rate_limit_scope = "enrolment"

    @property
    def max_body_bytes(self) -> int:
        """As much as E1 may need for the suites in use; E3 is small."""
        return begin_limit()

    def post(self, request: Request) -> Response:
        now = timezone.now()
        if not isinstance(request.data, dict):
            raise Refusal("malformed-message", "The enrolment request must be a map.")
        if set(request.data) == _BEGIN:
            answer = begin_enrolment(bytes_field(request.data, "begin", maximum=begin_limit()), now=now)
            return Response({"challenge": answer.message, "succession": answer.succession})
        message = require_map(request.data, _FINISH, "enrolment request")
        attempt, sealed_token = bytes_field(message, "attempt", 16), bytes_field(message, "sealed_token", maximum=256)
        return Response({"confirmation": finish_enrolment(attempt, sealed_token, now=now)})
