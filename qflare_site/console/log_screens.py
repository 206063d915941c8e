"""The screens of the log."""

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry, Event
from audit.services import current_checkpoint, record_damage, record_verification
from operator_admin.operations import actor_of
from qflare_site.console.figures.site import log_growth
from qflare_site.console.listing import Listing
from qflare_site.console.log_events import (
    LARGEST_ID,
    LogFilter,
    checkpoints,
    previous_hash,
    read_events,
    read_inclusion,
)
from qflare_site.console.log_verification import Progress, verify_on
from qflare_site.console.pages import console_page, show


@console_page("audit.view_event", "audit.view_entry")
def list_entries(request: HttpRequest) -> HttpResponseBase:
    """Answer `/log-entries`: what happened, newest first, in the log or on its way into it."""
    asked = LogFilter(request.GET)
    context = {
        "filter": asked,
        "page": read_events(asked),
        "waiting": Event.objects.filter(sequenced=False).count(),
        "head": current_checkpoint(),
        "newest": asked.address(),
        "growth": log_growth(timezone.now()),
    }
    return show(request, "console/log_entries.html", title="Log", **context)


@console_page("audit.view_event", "audit.view_entry")
def show_entry(request: HttpRequest, index: int) -> HttpResponseBase:
    """Answer `/log-entries/<index>`: one entry, what it discloses, and the proof that it is in the log."""
    entry = get_object_or_404(Entry.objects.select_related("event"), index=min(index, LARGEST_ID))
    context = {
        "entry": entry,
        "event": entry.event,
        "previous": previous_hash(entry),
        "inclusion": read_inclusion(entry),
        "newer": Entry.objects.filter(index=entry.index + 1).exists(),
    }
    return show(request, "console/log_entry.html", title=f"Entry {entry.index}", trail=_trail(), **context)


@console_page("audit.view_checkpoint")
def list_checkpoints(request: HttpRequest) -> HttpResponseBase:
    """Answer `/log-checkpoints`: the signed tree heads, newest first."""
    listing = Listing.of(checkpoints(), request)
    return show(request, "console/log_checkpoints.html", title="Checkpoints", trail=_trail(), listing=listing)


@console_page("audit.change_entry", methods=("GET", "HEAD", "POST"))
def verify(request: HttpRequest) -> HttpResponseBase:
    """Answer `/log-entries/verify`: a GET asks first, each POST goes on verifying and tells how far it is."""
    if request.method != "POST":
        return show(request, "console/log_verification.html", title="Verify the log", trail=_trail())
    progress = verify_on(request.POST.get("state", ""))
    _record(progress, actor_of(request))
    if request.headers.get("HX-Request"):
        return render(request, "console/_log_progress.html", {"progress": progress})
    return show(request, "console/log_verification.html", title="Verify the log", trail=_trail(), progress=progress)


def _record(progress: Progress, actor: str) -> None:
    """Record how a verification ended, where it has."""
    if progress.report is not None:
        told = progress.report
        record_verification(entries=told.entries, checkpoints=told.checkpoints, root=told.root, actor=actor)
    elif progress.damage:
        record_damage(progress.damage, actor=actor)


def _trail() -> list[tuple[str, str]]:
    return [("Log", reverse("console:log-entries"))]
