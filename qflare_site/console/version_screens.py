"""The screens of model versions."""

from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.http import urlencode

from qflare_site.console.figures.learning import accuracy_per_round, loss_per_round
from qflare_site.console.listing import FEDERATION, Choice, Listing, federation_choice
from qflare_site.console.pages import Panel, console_page, show, show_panels
from qflare_site.console.versions import (
    VersionRow,
    compare_versions,
    read_metrics,
    read_provenance,
    versions_with_lineage,
)
from training.models import Federation, ModelVersion

VERSIONS_OFFERED = 50
LARGEST_ID = 2**63 - 1
RELEASED = Choice("released", "Released", (("yes", "Released now"),))
IS_RELEASED = {"released": {"yes": Q(released_at__isnull=False)}}


@console_page("training.view_modelversion")
def list_versions(request: HttpRequest) -> HttpResponseBase:
    """Answer `/models`: the versions of every federation, newest first, each with what it continues."""
    choices = (federation_choice(request), RELEASED)
    newest = versions_with_lineage().order_by("-created_at", "-id")
    listing = Listing.of(newest, request, choices=choices, conditions=IS_RELEASED)
    rows = [VersionRow.of(version) for version in listing.rows]
    chosen = listing.chosen(FEDERATION)
    federation = Federation.objects.filter(name=chosen).first() if chosen else None
    figures = [accuracy_per_round(federation.id), loss_per_round(federation.id)] if federation else []
    return show(request, "console/versions.html", title="Models", listing=listing, rows=rows, figures=figures)


@console_page("training.view_modelversion")
def show_version(request: HttpRequest, version_id: int) -> HttpResponseBase:
    """Answer `/models/<id>`: one version, what is measured of it and where it comes from."""
    version = get_object_or_404(versions_with_lineage(), pk=min(version_id, LARGEST_ID))
    panels = {
        "metrics": Panel("version_metrics", lambda: read_metrics(version)),
        "provenance": Panel("version_provenance", lambda: {"provenance": read_provenance(version)}),
    }
    others = version.federation.versions.exclude(pk=version.pk).order_by("-number").values_list("id", "number")
    return show_panels(
        request, "console/version.html", panels, title=str(version), trail=_trail(version.federation),
        row=VersionRow.of(version), version=version, others=others[:VERSIONS_OFFERED],
    )  # fmt: skip


@console_page("training.view_modelversion")
def compare(request: HttpRequest) -> HttpResponseBase:
    """Answer `/models/compare?a=&b=`: two versions of one federation side by side."""
    first, second = (_version(request.GET.get(name, "")) for name in ("a", "b"))
    title, template = "Compare two models", "console/version_comparison.html"
    if first is None or second is None:
        return show(request, template, title=title, fault="Choose two versions: one of these does not exist.")
    if first.federation_id != second.federation_id:
        fault = "These are models of two federations; only versions of one federation are compared."
        return show(request, template, title=title, fault=fault)
    comparison, trail = compare_versions(first, second), _trail(first.federation)
    return show(request, template, title=f"{first} and {second}", trail=trail, comparison=comparison)


def _version(text: str) -> ModelVersion | None:
    if not text.isdecimal() or not text.isascii() or len(text) > 19 or int(text) > LARGEST_ID:
        return None
    return versions_with_lineage().filter(pk=int(text)).first()


def _trail(federation: Federation) -> list[tuple[str, str]]:
    models = reverse("console:models")
    return [("Models", models), (federation.name, f"{models}?{urlencode({FEDERATION: federation.name})}")]
