"""Suites and settings in effect, as the console shows them."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings

from audit.anchor_settings import parse_anchors
from qflare_protocol.suites import SUITES, Suite, unavailable_suites

SECRETS = frozenset({"SECRET_KEY", "QFLARE_PKCS11_PIN", "QFLARE_METRICS_TOKEN"})
URLS = frozenset(
    {"DATABASE_URL", "REDIS_URL", "BLOB_URL", "QFLARE_SMTP_URL", "QFLARE_QKD_KME_URL", "QFLARE_OTLP_ENDPOINT"}
)
ANCHORS = "QFLARE_ANCHORS"
"""Addresses of anchors may carry keys in their paths: of each its name and kind are shown."""


@dataclass(frozen=True)
class SuiteView:
    """One suite; `state` is "in use", "not in use" or "unavailable", `fault` says why a suite in use is not served."""

    suite: Suite
    state: str
    tone: str
    fault: str


def suites_here() -> list[SuiteView]:
    """Return every suite of the table, those in use with what keeps them from being served."""
    faults = unavailable_suites(name for name in settings.QFLARE_SUITES if name in SUITES)
    views = []
    for name, suite in SUITES.items():
        state = "unavailable" if name in faults else "in use" if name in settings.QFLARE_SUITES else "not in use"
        tone = {"unavailable": "danger", "in use": "success", "not in use": "neutral"}[state]
        views.append(SuiteView(suite, state, tone, faults.get(name, "")))
    return views


def algorithms_in_use() -> list[str]:
    """Return the algorithms of the suites in use, each once, in the order of the table."""
    suites = [SUITES[name] for name in SUITES if name in settings.QFLARE_SUITES]
    return list(dict.fromkeys(algorithm for suite in suites for algorithm in suite.algorithms))


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
    if name == ANCHORS:
        return ", ".join(f"{anchor['name']} ({anchor['kind']})" for anchor in parse_anchors(value))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _without_credentials(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may carry a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
