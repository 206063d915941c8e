"""`GET /metrics`: what Prometheus scrapes, for whoever has the token, or without one for this host alone."""

import hmac
import ipaddress
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from qflare_protocol.errors import Refusal
from qflare_site.client_address import client_address
from qflare_site.metrics.processes import registry
from qflare_site.metrics.site import SiteCollector
from qflare_site.problem_details import problem_response

_SITE = CollectorRegistry()
_SITE.register(SiteCollector())


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer in Prometheus' text format; 403 without the token of `QFLARE_METRICS_TOKEN`."""
    if not _allowed(request):
        detail = "Metrics want `Authorization: Bearer` with the token of QFLARE_METRICS_TOKEN."
        return problem_response(Refusal("permission-denied", detail))
    return HttpResponse(generate_latest(registry()) + generate_latest(_SITE), content_type=CONTENT_TYPE_LATEST)


def _allowed(request: HttpRequest) -> bool:
    if settings.QFLARE_METRICS_TOKEN:
        given = request.headers.get("Authorization", "")
        wanted = f"Bearer {settings.QFLARE_METRICS_TOKEN}"
        return hmac.compare_digest(given.encode(), wanted.encode())
    return _is_loopback(client_address(request))


def _is_loopback(address: Any) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
