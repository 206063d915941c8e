"""Whether whoever sits at the browser has proved lately who they are; what is sensitive asks for that first."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.authentication import get_authentication_records
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.utils.http import urlencode

SIGN_IN_AGAIN = "This is sensitive: say first that it is still you."

View = Callable[..., HttpResponseBase]


def is_fresh(request: HttpRequest) -> bool:
    """Whether a password, a code or a passkey was given within `QFLARE_FRESH_SIGN_IN_SECONDS`; 0 asks for none."""
    allowed = settings.QFLARE_FRESH_SIGN_IN_SECONDS
    if not allowed:
        return True
    given_at = [record["at"] for record in get_authentication_records(request, request.user)]
    return bool(given_at) and 0 <= time.time() - max(given_at) < allowed


def sign_in_again(request: HttpRequest, *, back: str) -> HttpResponseRedirect:
    """Send whoever it is to prove it; they come back to the page `back`."""
    messages.info(request, SIGN_IN_AGAIN)
    methods = get_adapter(request).get_reauthentication_methods(request.user)
    page = methods[0]["url"] if methods else settings.LOGIN_REDIRECT_URL
    return HttpResponseRedirect(f"{page}?{urlencode({REDIRECT_FIELD_NAME: back})}")


def needs_fresh_sign_in(view: View) -> View:
    """Decorate a view, or a method of an admin, that is sensitive: a stale sign-in is asked for first.

    After it the page is shown anew; what a POST carried is not done behind the question.
    """

    @wraps(view)
    def asked_first(*args: Any, **kwargs: Any) -> HttpResponseBase:
        request = next(argument for argument in args if isinstance(argument, HttpRequest))
        if is_fresh(request):
            return view(*args, **kwargs)
        return sign_in_again(request, back=request.get_full_path())

    return asked_first
