"""Health, cryptography, settings in effect and the log."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings

from audit.models import Checkpoint, Event
from audit.services import current_checkpoint
from audit.tree import tree_size
from operator_admin.tones import tone_of
from qflare_protocol.pqc.status import EngineStatus, engine_status
from qflare_protocol.suites import SUITES, Suite
from qflare_site.health import examine

SECRETS = frozenset({"SECRET_KEY"})
URLS = frozenset({"DATABASE_URL", "REDIS_URL", "BLOB_URL"})


@dataclass(frozen=True)
class PartView:
    """One part of the site."""

    name: str
    status: str
    tone: str
    detail: str


@dataclass(frozen=True)
class StatusView:
    """Everything on the status page."""

    parts: list[PartView]
    suites: list[Suite]
    engines: list[EngineStatus]
    settings: list[tuple[str, str]]
    log_entries: int
    waiting_events: int
    checkpoint: Checkpoint | None


def read_status(now: datetime) -> StatusView:
    """Read the status page at the time `now`; every engine's self-test runs anew, in tens of milliseconds."""
    report = examine(now)
    return StatusView(
        parts=[
            PartView(name, part["status"], tone_of(part["status"]), part["detail"])
            for name, part in report["parts"].items()
        ],
        suites=list(SUITES.values()),
        engines=engine_status(),
        settings=settings_in_effect(),
        log_entries=tree_size(),
        waiting_events=Event.objects.filter(sequenced=False).count(),
        checkpoint=current_checkpoint(),
    )


def settings_in_effect() -> list[tuple[str, str]]:
    """Return every environment variable of the site with its value in words, secrets masked."""
    rows = [("Profile", settings.PROFILE)]
    return rows + [(name, shown_value(name, value)) for name, value in sorted(settings.ENVIRONMENT.items())]


def shown_value(name: str, value: Any) -> str:
    """Return what may be shown of a setting."""
    if value in ("", []):
        return "not set"
    if name in SECRETS:
        return "set, not shown"
    if name in URLS:
        return _without_credentials(str(value))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _without_credentials(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may carry a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
