"""The devices of the console."""

from django.core.paginator import Page, Paginator
from django.db.models import Count, Q, QuerySet

from devices.models import Device
from training.models import ParticipationState

DEVICES_PER_PAGE = 100


def devices_with_results() -> QuerySet[Device]:
    """Return the devices by name, each with `rounds`, `accepted` and `rejected` counts."""
    return Device.objects.annotate(
        rounds=Count("participations"),
        accepted=Count("participations", filter=Q(participations__state=ParticipationState.ACCEPTED)),
        rejected=Count("participations", filter=Q(participations__state=ParticipationState.REJECTED)),
    ).order_by("name")


def device_page(number: str | None) -> Page[Device]:
    """Return a page of devices; a number that is none, or too high, gives the first or the last page."""
    return Paginator(devices_with_results(), DEVICES_PER_PAGE).get_page(number)
