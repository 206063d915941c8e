"""Whoever is signed in without a second factor sees nothing but the pages on which one is enrolled."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse

from operator_access.services.second_factor import has_second_factor
from operator_access.shown_factor import sent_to, sent_to_show_it, shown_in_this_session

WITHOUT_SIGN_IN = ("/accounts/", "/api/", "/log/", "/health", "/metrics", settings.STATIC_URL)
"""Beginnings of addresses that are open to everybody, or take keys and sealed requests and no browser's session.

The pages under /accounts/ are open to whoever has no factor yet; for the others they ask themselves.
"""


class SecondFactorMiddleware:
    """Sends people to enrol a second factor, or to show the one they have."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        return self._get_response(request)

    def process_view(self, request: HttpRequest, *_: Any) -> HttpResponseBase | None:
        """Return where to go first, or None where the page may be shown."""
        if not settings.QFLARE_REQUIRE_SECOND_FACTOR or request.path_info.startswith(WITHOUT_SIGN_IN):
            return None
        if settings.SESSION_COOKIE_NAME not in request.COOKIES or not request.user.is_authenticated:
            return None
        if not has_second_factor(request.user):
            return sent_to(reverse("mfa_index"), request)
        # Else it signed in with the password alone, before the factor was enrolled from another browser.
        return None if shown_in_this_session(request) else sent_to_show_it(request)
