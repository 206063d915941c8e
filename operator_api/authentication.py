"""Who calls the operator API: `Authorization: Bearer` with an API key, and what that key may do."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from structlog.contextvars import bind_contextvars

from operator_api.models import ApiKey
from operator_api.scopes import DEMANDS, Scope
from operator_api.services import live_key
from qflare_protocol.errors import Refusal

SCHEME = "Bearer "


class ApiKeyAuthentication(BaseAuthentication):
    """Takes the key of the request. Raises `Refusal("authentication-failed")`."""

    def authenticate(self, request: Request) -> tuple[ApiKey, None]:
        """Return the key as the request's user."""
        header = request.headers.get("Authorization", "")
        if not header.startswith(SCHEME):
            raise Refusal("authentication-failed", "Send `Authorization: Bearer` with an API key of this site.")
        key = live_key(header.removeprefix(SCHEME), now=timezone.now())
        bind_contextvars(operator=str(key.actor))
        return key, None


class OperatorView(APIView):
    """An endpoint of the operator API; `scopes` says what a key needs for each method."""

    authentication_classes = (ApiKeyAuthentication,)
    permission_classes = ()
    rate_limit_scope = "operator"
    scopes: ClassVar[Mapping[str, Scope]]

    def rate_limit_key(self, request: Request) -> str:
        """Count by key."""
        return str(request.user.pk)

    def check_permissions(self, request: Request) -> None:
        """Refuse a key without the scope of the method, or whose maker may not do this any more: "permission-denied".

        Raises `MethodNotAllowed` for a method that no scope is named for; OPTIONS tells nothing of any row.
        """
        method = "GET" if request.method == "HEAD" else request.method or ""  # Django answers HEAD by `get`
        if method == "OPTIONS":
            return
        needed = self.scopes.get(method)
        if needed is None:
            raise MethodNotAllowed(method)
        if needed.value not in request.user.scopes:
            lacking = Refusal("permission-denied", f"The key {request.user.name} lacks the scope {needed.value}.")
            raise lacking.with_event("api_key.refused", actor=request.user.actor, reason=f"lacks {needed.value}")
        _require_maker_may(request.user, needed)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Let nobody on the way keep the answer."""
        answer = super().finalize_response(request, response, *args, **kwargs)
        answer["Cache-Control"] = "no-store"
        return answer


def _require_maker_may(key: ApiKey, needed: Scope) -> None:
    """Refuse what the person who made the key may not do any more; a key of a shell answers to nobody."""
    if key.maker is None or key.maker.has_perms(DEMANDS.get(needed, ())):
        return
    outlived = Refusal("permission-denied", f"Whoever made the key {key.name} may not do this any more.")
    raise outlived.with_event("api_key.refused", actor=key.actor, reason=f"its maker lacks {needed.value}")
