"""The devices that somebody should look at, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count

from devices.models import Device, DeviceState
from monitor.models import Incident, IncidentState
from monitor.terms import SubjectKind
from training.models import Participation, ParticipationState

SILENT_AFTER = timedelta(days=1)
KEYS_SOON = timedelta(days=7)
REJECTIONS_WITHIN = timedelta(days=1)
REJECTIONS_WORTH_A_LOOK = 2
SHOWN = 10


@dataclass(frozen=True)
class Attention:
    """One device and all there is to look at."""

    device: Device
    reasons: tuple[str, ...]


def devices_needing_attention(now: datetime) -> list[Attention]:
    """Return at most ten devices by name: four queries, however many there are.

    A device needs attention while an incident about it is not closed, while it is suspended, when its keys
    end within a week, when it has been silent for a day, and after two rejected updates within a day.
    """
    found: dict[Device, list[str]] = {}
    for device, reason in _findings(now):
        found.setdefault(device, []).append(reason)
    ordered = sorted(found.items(), key=lambda one: (-len(one[1]), one[0].name))
    return [Attention(device, tuple(reasons)) for device, reasons in ordered[:SHOWN]]


def _findings(now: datetime) -> Iterator[tuple[Device, str]]:
    unclosed = Incident.objects.filter(subject_kind=SubjectKind.DEVICE).exclude(state=IncidentState.CLOSED)
    rules = dict(unclosed.order_by("-opened_at").values_list("subject_name", "rule")[: SHOWN * 5])
    for device in Device.objects.filter(name__in=rules):
        yield device, f"incident: {rules[device.name]}"
    for device in Device.objects.filter(state=DeviceState.SUSPENDED).order_by("-state_changed_at")[:SHOWN]:
        yield device, "suspended"
    active = Device.objects.filter(state=DeviceState.ACTIVE)
    for device in active.filter(keys_due_at__lte=now + KEYS_SOON).order_by("keys_due_at")[:SHOWN]:
        yield device, "its keys are due" if device.must_rotate_keys(now) else "its keys are due within a week"
    for device in active.filter(last_seen_at__lt=now - SILENT_AFTER).order_by("-last_seen_at")[:SHOWN]:
        yield device, "silent for more than a day"
    yield from _rejected(now)


def _rejected(now: datetime) -> Iterator[tuple[Device, str]]:
    recent = Participation.objects.filter(
        state=ParticipationState.REJECTED, submitted_at__gte=now - REJECTIONS_WITHIN
    ).order_by()
    counted = dict(
        recent.values_list("device_id").annotate(count=Count("id")).filter(count__gte=REJECTIONS_WORTH_A_LOOK)
    )
    for device in Device.objects.filter(id__in=list(counted)[: SHOWN * 5]):
        yield device, f"{counted[device.id]} updates rejected within a day"
