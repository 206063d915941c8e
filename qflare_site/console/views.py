"""The screens of the console that look: each is panels or a list, in the frame of `qflare_site.console.pages`."""

import uuid

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone

from devices.models import Device
from monitor.models import Incident, IncidentState
from monitor.terms import Severity
from qflare_site.console import federations, fleet, overview, rounds
from qflare_site.console.listing import Choice, Listing, federation_choice
from qflare_site.console.pages import Panel, console_page, show, show_panels
from sessions.models import Session, SessionState
from training.models import Federation, FederationState, Round, RoundState


@console_page()
def show_overview(request: HttpRequest) -> HttpResponseBase:
    """Answer `/`: what runs now, of what this operator may see."""
    now = timezone.now()
    panels = {
        "fleet": Panel("fleet", lambda: overview.read_fleet(now), "devices.view_device"),
        "incidents": Panel("incidents", overview.read_incidents, "monitor.view_incident"),
        "health": Panel("health", lambda: overview.read_health(now)),
        "federations": Panel("federations", overview.read_federations, "training.view_federation"),
        "rejections": Panel("rejections", overview.read_rejections, "training.view_participation"),
        "events": Panel("events", overview.read_events, "audit.view_event"),
        "figures": Panel("figures", lambda: overview.read_figures(now), "audit.view_event"),
    }
    return show_panels(request, "console/overview.html", panels, title="Overview")


@console_page("devices.view_device")
def list_devices(request: HttpRequest) -> HttpResponseBase:
    """Answer `/devices`: the fleet, with what came of each device's updates."""
    listing, rows = fleet.list_devices(request)
    return show(request, "console/devices.html", title="Devices", listing=listing, rows=rows)


@console_page("devices.view_device")
def show_device(request: HttpRequest, device_id: uuid.UUID) -> HttpResponseBase:
    """Answer `/devices/<id>`: one device."""
    device = get_object_or_404(Device, pk=device_id)
    panels = {
        "identity": Panel("device_identity", lambda: fleet.read_identity(device, timezone.now())),
        "participation": Panel(
            "device_participation", lambda: fleet.read_participation(device), "training.view_participation"
        ),
        "sessions": Panel("device_sessions", lambda: fleet.read_sessions(device), "device_sessions.view_session"),
        "incidents": Panel("device_incidents", lambda: fleet.read_incidents(device), "monitor.view_incident"),
        "history": Panel("device_history", lambda: fleet.read_history(device), "audit.view_event"),
    }
    trail = [("Devices", reverse("console:devices"))]
    return show_panels(request, "console/device.html", panels, title=device.name, trail=trail, device=device)


@console_page("device_sessions.view_session")
def list_sessions(request: HttpRequest) -> HttpResponseBase:
    """Answer `/sessions`: handshakes and what followed, newest first."""
    columns = (
        "device__name", "suite", "state", "end_reason", "qkd", "generation", "requests", "transfer_bytes",
        "challenged_at", "activated_at", "expires_at", "ended_at",
    )  # fmt: skip
    rows = Session.objects.select_related("device").only(*columns).order_by("-challenged_at")
    choices = (Choice("state", "State", SessionState.choices),)
    listing = Listing.of(rows, request, choices=choices, search=("device__name",))
    return show(request, "console/sessions.html", title="Sessions", listing=listing)


@console_page("training.view_federation")
def list_federations(request: HttpRequest) -> HttpResponseBase:
    """Answer `/federations`."""
    listing = federations.list_federations(request)
    return show(request, "console/federations.html", title="Federations", listing=listing)


@console_page("training.view_federation")
def show_federation(request: HttpRequest, federation_id: uuid.UUID) -> HttpResponseBase:
    """Answer `/federations/<id>`: one federation."""
    federation = get_object_or_404(Federation.objects.select_related("current_version"), pk=federation_id)
    panels = {
        "rounds": Panel("federation_rounds", lambda: federations.read_rounds(federation)),
        "figures": Panel("figures", lambda: federations.read_figures(federation), "training.view_participation"),
        "terms": Panel("federation_terms", lambda: federations.read_terms(federation)),
    }
    trail = [("Federations", reverse("console:federations"))]
    may_start = federation.state == FederationState.ACTIVE and not federations.has_running_round(federation)
    return show_panels(
        request, "console/federation.html", panels, title=federation.name, trail=trail, federation=federation,
        may_start=may_start,
    )  # fmt: skip


@console_page("training.view_round")
def show_round(request: HttpRequest, round_id: uuid.UUID) -> HttpResponseBase:
    """Answer `/rounds/<id>`: one round."""
    round_ = get_object_or_404(Round.objects.select_related("federation").defer("roster"), pk=round_id)
    panels = {
        "progress": Panel("round_progress", lambda: rounds.read_progress(round_)),
        "participants": Panel("round_participants", lambda: rounds.read_participants(round_)),
        "scatter": Panel("figures", lambda: rounds.read_scatter(round_)),
        "defence": Panel("round_defence", lambda: rounds.read_defence(round_)),
        "result": Panel("round_result", lambda: rounds.read_result(round_)),
    }
    federation = round_.federation
    trail = [
        ("Federations", reverse("console:federations")),
        (federation.name, reverse("console:federation", args=(federation.id,))),
    ]
    title = f"{federation.name} round {round_.number}"
    return show_panels(request, "console/round.html", panels, title=title, trail=trail, round=round_)


@console_page("training.view_round")
def download_result(_request: HttpRequest, round_id: uuid.UUID) -> HttpResponseBase:
    """Answer `/rounds/<id>/result`: the round's result as its enclave signed it (protocol section 10)."""
    round_ = get_object_or_404(
        Round.objects.select_related("federation", "resulting_version").defer("roster"),
        pk=round_id, resulting_version__provenance__isnull=False,
    )  # fmt: skip
    answer = HttpResponse(bytes(round_.resulting_version.provenance), content_type="application/cose")
    name = f"{round_.federation.name}-round-{round_.number}.cose"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


@console_page("training.view_round")
def list_rounds(request: HttpRequest) -> HttpResponseBase:
    """Answer `/rounds`: the rounds of every federation, newest first."""
    rows = Round.objects.select_related("federation", "resulting_version").defer("roster").order_by("-created_at")
    choices = (Choice("state", "State", RoundState.choices), federation_choice(request))
    return show(request, "console/rounds.html", title="Rounds", listing=Listing.of(rows, request, choices=choices))


@console_page("monitor.view_incident")
def list_incidents(request: HttpRequest) -> HttpResponseBase:
    """Answer `/incidents`: what the monitor found, newest first."""
    choices = (Choice("state", "State", IncidentState.choices), Choice("severity", "Severity", Severity.choices))
    rows = Incident.objects.order_by("-opened_at")
    listing = Listing.of(rows, request, choices=choices, search=("subject_name", "rule"))
    return show(request, "console/incidents.html", title="Incidents", listing=listing)
