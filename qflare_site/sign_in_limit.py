"""Sign-ins are limited by address, too: axes counts by name and address, and would let one address try all names."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from qflare_site.throttling import RETRY_WHEN_UNAVAILABLE_SECONDS, known_within_limit

LIMITED = {"account_login": ("POST",), "mfa_login_webauthn": ("GET", "POST"), "mfa_authenticate": ("POST",)}
"""Pages by name, and the methods that are counted: to ask for a passkey makes a session, so that a GET is, too."""
WAIT_SECONDS = 60
UNCOUNTED = "Sign-ins cannot be counted at the moment, and nobody guesses uncounted."


class SignInLimitMiddleware:
    """Refuses an address that signs in more often than `QFLARE_RATE_SIGN_IN`, and everybody while nobody can tell."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        return self._get_response(request)

    def process_view(self, request: HttpRequest, *_: Any) -> HttpResponse | None:
        """Return the refusal, or None within the limit."""
        page = request.resolver_match.url_name if request.resolver_match else None
        if request.method not in LIMITED.get(page or "", ()):
            return None
        within = known_within_limit("sign-in", request)
        if within is None:
            return _refused(request, 503, RETRY_WHEN_UNAVAILABLE_SECONDS, reason=UNCOUNTED)
        return None if within else _refused(request, 429, WAIT_SECONDS)


def _refused(request: HttpRequest, status: int, wait_seconds: int, **context: str) -> HttpResponse:
    answer = render(request, f"{status}.html", context, status=status)
    answer["Retry-After"] = str(wait_seconds)
    return answer
