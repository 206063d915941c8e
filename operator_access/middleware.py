"""Whoever is signed in without a second factor sees nothing but the pages on which one is enrolled."""

from collections.abc import Callable
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.authentication import get_authentication_records
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import urlencode

from operator_access.services.second_factor import has_second_factor

WITHOUT_SIGN_IN = ("/accounts/", "/api/", "/log/", "/health", "/metrics", settings.STATIC_URL)
"""Beginnings of addresses that are open to everybody, or take keys and sealed requests and no browser's session."""


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
            return _sent_to(reverse("mfa_index"), request)
        if shown_in_this_session(request):
            return None
        # It signed in with the password alone, before the factor was enrolled from another browser.
        return _sent_to(get_adapter(request).get_reauthentication_methods(request.user)[-1]["url"], request)


def shown_in_this_session(request: HttpRequest) -> bool:
    """Whether a second factor was shown in this very session."""
    return any(record["method"] == "mfa" for record in get_authentication_records(request, request.user))


def _sent_to(page: str, request: HttpRequest) -> HttpResponseRedirect:
    return HttpResponseRedirect(f"{page}?{urlencode({'next': request.get_full_path()})}")
