"""Plain pages for signed-in staff; everybody else is sent to the login."""

from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from qflare_site.console.devices import device_page
from qflare_site.console.overview import read_overview
from qflare_site.console.status import read_status


@require_safe
@never_cache
@staff_member_required
def overview(request: HttpRequest) -> HttpResponse:
    """Answer `/`: what runs now."""
    return render(request, "console/overview.html", {"overview": read_overview(timezone.now())})


@require_safe
@never_cache
@staff_member_required
def devices(request: HttpRequest) -> HttpResponse:
    """Answer `/devices`: every device with its state and what came of its updates."""
    return render(request, "console/devices.html", {"page": device_page(request.GET.get("page"))})


@require_safe
@never_cache
@staff_member_required
def status(request: HttpRequest) -> HttpResponse:
    """Answer `/status`: health, cryptography, settings and log."""
    return render(request, "console/status.html", {"status": read_status(timezone.now())})
