"""What this site is made of and how it is set up: versions, system checks, cryptography, settings, health."""

import platform
import ssl
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.core.checks.messages import CRITICAL, ERROR, INFO, WARNING
from django.db import connection
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from qflare_protocol.pqc.status import engine_status
from qflare_site.console.overview import read_health
from qflare_site.console.pages import Panel, console_page, show_panels
from qflare_site.console.status import algorithms_in_use, settings_in_effect, suites_here

PACKAGES = ("Django", "djangorestframework", "celery", "cryptography", "django-unfold")
LEVELS = {CRITICAL: ("Critical", "danger"), ERROR: ("Error", "danger"), WARNING: ("Warning", "warning")}


@dataclass(frozen=True)
class Finding:
    """What a system check says: how bad it is, in which words, what to do, and its id."""

    word: str
    tone: str
    message: str
    hint: str
    id: str

    @classmethod
    def of(cls, message: CheckMessage) -> "Finding":
        """Read a message of Django's checks."""
        word, tone = LEVELS.get(message.level, ("Note", "info"))
        return cls(word, tone, str(message.msg), str(message.hint or ""), message.id or "")


def read_versions() -> dict[str, Any]:
    """Return the versions of the site and of what it stands on."""
    return {"versions": [("QFLARE", settings.SPECTACULAR_SETTINGS["VERSION"]), *_foundations()]}


def _foundations() -> list[tuple[str, str]]:
    return [
        ("Profile", settings.PROFILE),
        ("Python", platform.python_version()),
        *((package, _version_of(package)) for package in PACKAGES),
        ("OpenSSL", ssl.OPENSSL_VERSION),
        (connection.display_name, _database_version()),
    ]


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def _database_version() -> str:
    numbers: tuple[int, ...] = connection.get_database_version()
    return ".".join(map(str, numbers))


def read_findings() -> dict[str, Any]:
    """Return what `manage.py check --deploy` says in this process, the worst first, without what is silenced."""
    messages = [one for one in run_checks(include_deployment_checks=True) if not one.is_silenced()]
    worst_first = sorted(messages, key=lambda one: (-one.level, one.id or ""))
    return {"findings": [Finding.of(one) for one in worst_first if one.level >= INFO]}


def read_cryptography() -> dict[str, Any]:
    """Return suites and engines.

    Only engines of suites in use are tested, and each once in the life of this process: Classic McEliece
    takes seconds.
    """
    return {"suites": suites_here(), "engines": engine_status(algorithms_in_use())}


def read_settings() -> dict[str, Any]:
    """Return every environment variable of the site with its value in words, secrets masked."""
    return {"settings": settings_in_effect()}


@console_page("qflare_site.view_processheartbeat")
def show_system(request: HttpRequest) -> HttpResponseBase:
    """Answer `/system`: health, versions, what the system checks say, cryptography and settings."""
    panels = {
        "health": Panel("system_health", lambda: read_health(timezone.now())),
        "versions": Panel("system_versions", read_versions),
        "checks": Panel("system_checks", read_findings),
        "cryptography": Panel("system_cryptography", read_cryptography),
        "settings": Panel("system_settings", read_settings),
    }
    return show_panels(request, "console/system.html", panels, title="System")
