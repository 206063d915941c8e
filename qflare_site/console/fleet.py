"""The devices of the fleet, and one device with its keys, sessions, rounds, incidents and history."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count
from django.http import HttpRequest

from audit.models import Event
from devices.admin import key_state
from devices.models import Device, DeviceState
from monitor.models import Incident
from monitor.terms import SubjectKind
from qflare_site.console.listing import Choice, Listing
from training.models import Participation, ParticipationState

DONE_TO_DEVICES = tuple(
    f"device.{verb}"
    for verb in ("suspended", "resumed", "revoked", "labelled", "key_rotation_demanded", "key_demand_withdrawn")
)
SESSIONS_SHOWN, ROUNDS_SHOWN, INCIDENTS_SHOWN, EVENTS_SHOWN, GROUPS_SHOWN = 10, 25, 10, 25, 200


@dataclass(frozen=True)
class DeviceRow:
    """One device with how many of its updates came to what."""

    device: Device
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Rounds it was invited to."""
        return sum(self.parts.values())

    @property
    def accepted(self) -> int:
        """Updates of it that went into a model."""
        return self.parts.get(ParticipationState.ACCEPTED, 0)

    @property
    def rejected(self) -> int:
        """Updates of it that the enclave, or an operator, rejected."""
        return self.parts.get(ParticipationState.REJECTED, 0)


def list_devices(request: HttpRequest) -> tuple[Listing, list[DeviceRow]]:
    """Return the page of devices that the request asks for, by name: four queries."""
    groups = Device.objects.exclude(group="").order_by("group").values_list("group", flat=True).distinct()
    choices = (
        Choice("state", "State", DeviceState.choices),
        Choice("group", "Group", [(group, group) for group in groups[:GROUPS_SHOWN]]),
    )
    listing = Listing.of(Device.objects.order_by("name"), request, choices=choices, search=("name", "group"))
    parts = _parts(device.id for device in listing.rows)
    return listing, [DeviceRow(device, parts.get(device.id, {})) for device in listing.rows]


def _parts(device_ids: Iterable[UUID]) -> dict[UUID, dict[str, int]]:
    counts: dict[UUID, dict[str, int]] = defaultdict(dict)
    rows = Participation.objects.filter(device__in=list(device_ids)).order_by()
    for device_id, state, count in rows.values_list("device_id", "state").annotate(Count("id")):
        counts[device_id][state] = count
    return counts


def read_identity(device: Device, now: datetime) -> dict[str, Any]:
    """Return the device's keys, newest first, each with its state."""
    keys = [(key, *key_state(key)) for key in device.keys.order_by("-version", "purpose")]
    return {"keys": keys, "must_rotate": device.must_rotate_keys(now)}


def read_sessions(device: Device) -> dict[str, Any]:
    """Return the device's last sessions."""
    shown = ("suite", "state", "end_reason", "qkd", "requests", "transfer_bytes", "challenged_at", "expires_at")
    return {
        "sessions": device.sessions.only("device_id", *shown).order_by("-challenged_at")[:SESSIONS_SHOWN],
        "live": True,
    }


def read_participation(device: Device) -> dict[str, Any]:
    """Return the device's part in its last rounds, with verdict and scores, and what came of all of them."""
    parts = Participation.objects.filter(device=device).select_related("round__federation").defer("round__roster")
    return {
        "row": DeviceRow(device, _parts([device.id]).get(device.id, {})),
        "parts": parts.order_by("-id")[:ROUNDS_SHOWN],
        "live": True,
    }


def read_incidents(device: Device) -> dict[str, Any]:
    """Return the incidents about the device, newest first."""
    about = Incident.objects.filter(subject_kind=SubjectKind.DEVICE, subject_name=device.name)
    return {"incidents": about.order_by("-opened_at")[:INCIDENTS_SHOWN]}


def read_history(device: Device) -> dict[str, Any]:
    """Return what the device did and what operators did to it, newest first, as far as its events are kept here."""
    own = Event.objects.filter(actor=str(device.actor)).order_by("-id")[:EVENTS_SHOWN]
    to_it = Event.objects.filter(kind__in=DONE_TO_DEVICES, payload__device=device.name).order_by("-id")[:EVENTS_SHOWN]
    events = {event.id: event for event in (*own, *to_it)}
    return {"events": [events[key] for key in sorted(events, reverse=True)[:EVENTS_SHOWN]]}
