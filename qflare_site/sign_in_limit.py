"""Sign-ins are limited by address, too: axes counts by name and address, and would let one address try all names."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from qflare_site.throttling import within_limit

LIMITED = {"account_login": ("POST",), "mfa_login_webauthn": ("GET", "POST"), "mfa_authenticate": ("POST",)}
"""Pages by name, and the methods that are counted: to ask for a passkey makes a session, so that a GET is, too."""
WAIT_SECONDS = 60


class SignInLimitMiddleware:
    """Refuses an address that signs in more often than `QFLARE_RATE_SIGN_IN`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        return self._get_response(request)

    def process_view(self, request: HttpRequest, *_: Any) -> HttpResponse | None:
        """Return the refusal, or None within the limit."""
        page = request.resolver_match.url_name if request.resolver_match else None
        if request.method not in LIMITED.get(page or "", ()) or within_limit("sign-in", request):
            return None
        answer = render(request, "429.html", status=429)
        answer["Retry-After"] = str(WAIT_SECONDS)
        return answer
