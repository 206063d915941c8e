"""What every screen of the console has in common: who may see it, its frame, and panels that are read by themselves."""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.decorators import staff_member_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

Page = Callable[..., HttpResponseBase]
UNCHANGED = 204  # htmx leaves a panel as it stands
EVERY_SECONDS = 3
PANEL_HEADER = "X-Console-Panel"
"""By it console.js tells a panel from a page that it was sent to instead, such as the sign-in."""

_WORDS_OF_TIMES = re.compile(r">[^<]*</time>")


def console_page(*permissions: str, methods: Sequence[str] = ("GET", "HEAD")) -> Callable[[Page], Page]:
    """Return a decorator for a screen: signed-in staff with all `permissions` only, never cached.

    Everybody else is sent to the login; staff who lack a permission are answered 403.
    """

    def decorate(view: Page) -> Page:
        @require_http_methods(list(methods))
        @never_cache
        @staff_member_required
        @functools.wraps(view)
        def page(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not request.user.has_perms(permissions):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return page

    return decorate


@dataclass(frozen=True)
class Panel:
    """A part of a screen that is read and rendered by itself.

    - template: beneath `console/panels/`, without its suffix.
    - permission: without it the panel is not on the screen; empty: whoever sees the screen sees it.
    - read: returns what the template shows. With `live` true in it, the browser asks for the panel again every
      few seconds while it is in sight, or every so many as `every` says; a terminal state leaves it out, and the
      asking stops.
    """

    template: str
    read: Callable[[], Mapping[str, Any]]
    permission: str = ""


def show(request: HttpRequest, template: str, *, title: str, **context: Any) -> TemplateResponse:
    """Return a screen in the console's frame; `trail` in the context is what lies above it, as (name, address)."""
    frame = {**admin.site.each_context(request), "console": True, "title": title}
    return TemplateResponse(request, template, {**frame, **context})


def show_panels(
    request: HttpRequest, template: str, panels: Mapping[str, Panel], *, title: str, **context: Any
) -> HttpResponseBase:
    """Return a screen of panels, or with `?panel=NAME` that panel alone.

    A panel that is asked for with the digest that the browser has already (`?seen=`) is answered 204 when it has
    not changed. Raises `Http404` for a panel that the screen does not have, or not for this operator.
    """
    panels = {name: one for name, one in panels.items() if not one.permission or request.user.has_perm(one.permission)}
    wanted = request.GET.get("panel")
    if wanted is None:
        rendered = {name: render_panel(request, name, panel, **context) for name, panel in panels.items()}
        return show(request, template, title=title, panels=rendered, **context)
    if wanted not in panels:
        raise Http404("This screen has no such panel.")
    markup = render_panel(request, wanted, panels[wanted], **context)
    seen = f'data-digest="{request.GET.get("seen", "")}"'
    answer = HttpResponse(status=UNCHANGED) if seen in markup else HttpResponse(markup)
    answer[PANEL_HEADER] = wanted
    return answer


def render_panel(request: HttpRequest, name: str, panel: Panel, **context: Any) -> str:
    """Return a panel's markup in its frame, which carries the digest of what is inside."""
    read = panel.read()
    inside = render_to_string(f"console/panels/{panel.template}.html", {**context, **read}, request)
    frame = {"name": name, "inside": inside, "live": read.get("live", False), "digest": _digest(inside)}
    frame["every"] = read.get("every", EVERY_SECONDS)
    return render_to_string("console/panel.html", frame, request)


def _digest(markup: str) -> str:
    """Return the digest of a panel, but for how long ago its times are: the browser goes on counting that by itself."""
    markup = _WORDS_OF_TIMES.sub("></time>", markup)
    return hashlib.blake2b(markup.encode(), digest_size=12).hexdigest()
