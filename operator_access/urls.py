"""Sign-in and second factors: allauth's pages, without those of sign-up and e-mail.

What is posted to them happens in one transaction with its events.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import structlog
from allauth.account import urls as account_urls
from allauth.mfa import urls as factor_urls
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.template.response import SimpleTemplateResponse
from django.urls import URLPattern, URLResolver, include, path, reverse
from django.views.decorators.cache import never_cache

from keyring.envelope import EnvelopeError
from keyring.kek import KekError
from operator_access.services.second_factor import factors_of, record_factor_changes
from operator_access.shown_factor import owes_factor, sent_to_show_it, shown_in_this_session
from operator_admin.fresh_sign_in import needs_fresh_sign_in

PAGES = {
    "account_login", "account_logout", "account_inactive", "account_reauthenticate", "account_change_password",
}  # fmt: skip
SHOWING = {
    "account_login", "account_logout", "account_inactive", "account_reauthenticate",
    "mfa_authenticate", "mfa_reauthenticate", "mfa_reauthenticate_webauthn", "mfa_login_webauthn",
}  # fmt: skip
"""Pages on which somebody shows who they are, or leaves; all others are closed to a session that owes its factor."""

View = Callable[..., HttpResponseBase]

log = structlog.get_logger(__name__)


def recorded(view: View) -> View:
    """Decorate a page of factors or passwords: one transaction with its events; nobody keeps the page.

    Where the secrets cannot be opened at the moment it answers 503.
    """

    @never_cache
    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        do = _post if request.method == "POST" else _rendered
        try:
            return do(view, request, *args, **kwargs)
        except IntegrityError:  # the same factor was enrolled from two pages at once
            return HttpResponseRedirect(reverse("mfa_index"))
        except (EnvelopeError, KekError) as error:
            log.error("second_factor.secret_does_not_open", error=type(error).__name__, reason=str(error))
            return render(request, "503.html", status=503)

    return answer


def _with_factor_shown(view: View) -> View:
    """Decorate a page that is closed to a session that owes its factor.

    The page itself asks, not a middleware: allauth calls a page that was put off until a password was given directly.
    """

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return sent_to_show_it(request) if owes_factor(request) else view(request, *args, **kwargs)

    return answer


def _post(view: View, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
    with transaction.atomic():
        who, before, shown = request.user.pk, factors_of(request.user), shown_in_this_session(request)
        response = _rendered(view, request, *args, **kwargs)
        if who is not None and request.user.pk == who:  # a sign-in enrols nothing
            record_factor_changes(request, before, shown=shown)
        return response


def _rendered(view: View, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
    """Render the page here, where what its secrets raise is answered."""
    response = view(request, *args, **kwargs)
    return response.render() if isinstance(response, SimpleTemplateResponse) else response


def _guarded(patterns: Iterable[URLPattern | URLResolver]) -> list[URLPattern | URLResolver]:
    """Return allauth's pages, each decorated."""
    decorated: list[URLPattern | URLResolver] = []
    for one in patterns:
        if isinstance(one, URLResolver):
            decorated.append(path(str(one.pattern), include(_guarded(one.url_patterns))))
        else:
            decorated.append(path(str(one.pattern), _guard(str(one.name), one.callback), name=one.name))
    return decorated


def _guard(name: str, page: View) -> View:
    if name == "account_change_password":
        page = login_required(needs_fresh_sign_in(recorded(page)))
    elif name.startswith("mfa_"):
        page = recorded(page)
    return page if name in SHOWING else _with_factor_shown(page)


urlpatterns = [
    *_guarded(page for page in account_urls.urlpatterns if isinstance(page, URLPattern) and page.name in PAGES),
    path("2fa/", include(_guarded(factor_urls.urlpatterns))),
]
