"""The sidebar: every screen of the console, and beneath them the records as the database has them."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse


@dataclass(frozen=True)
class Screen:
    """One entry: what it is called, its symbol, its view and the permission without which it is not shown."""

    title: str
    icon: str
    view: str
    permission: str = ""


SCREENS: tuple[tuple[str, tuple[Screen, ...]], ...] = (
    (
        "Training",
        (
            Screen("Overview", "dashboard", "console:overview"),
            Screen("Federations", "hub", "console:federations", "training.view_federation"),
            Screen("Rounds", "cycle", "console:rounds", "training.view_round"),
            Screen("Models", "deployed_code", "console:models", "training.view_modelversion"),
        ),
    ),
    (
        "Fleet",
        (
            Screen("Devices", "devices", "console:devices", "devices.view_device"),
            Screen("Enrolment", "key", "console:enrolment", "enrollment.view_enrolmenttoken"),
            Screen("Sessions", "lock", "console:sessions", "device_sessions.view_session"),
        ),
    ),
    (
        "Trust",
        (
            Screen("Incidents", "notification_important", "console:incidents", "monitor.view_incident"),
            Screen("Operators and access", "admin_panel_settings", "console:access", "auth.view_user"),
            Screen("Approvals", "how_to_reg", "console:approvals"),
            Screen("Log", "receipt_long", "console:log-entries", "audit.view_entry"),
        ),
    ),
    (
        "Site",
        (
            Screen("Schedules and workers", "engineering", "console:workers", "qflare_site.view_processheartbeat"),
            Screen("System", "settings", "console:system", "qflare_site.view_processheartbeat"),
            Screen("All records", "database", "admin:index"),
        ),
    ),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar's groups as the theme reads them, without what this operator may not see."""
    groups = (
        (title, [_entry(request, one) for one in screens if _may_see(request, one)]) for title, screens in SCREENS
    )
    return [{"title": title, "items": entries} for title, entries in groups if entries]


def _may_see(request: HttpRequest, screen: Screen) -> bool:
    return not screen.permission or request.user.has_perm(screen.permission)


def _entry(request: HttpRequest, screen: Screen) -> dict[str, Any]:
    address = reverse(screen.view)
    return {"title": screen.title, "icon": screen.icon, "link": address, "active": _is_at(request.path, address)}


def _is_at(path: str, address: str) -> bool:
    return path == address or (address != "/" and path.startswith(f"{address.rstrip('/')}/"))
