"""The first screen: what runs now, read in a number of queries that does not grow with rounds or devices."""

import functools
import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery

from audit.models import Event
from audit.services import current_checkpoint
from devices.models import Device, DeviceState
from enclave.models import EnclaveInstance
from monitor.models import Incident, IncidentState
from operator_admin.tones import tone_of
from qflare_protocol.attestation.limits import left_open
from qflare_site.console.attention import devices_needing_attention
from qflare_site.console.figures.failures import failures_by_reason
from qflare_site.console.figures.site import devices_online, log_growth
from qflare_site.console.round_rows import RoundRow, round_rows
from qflare_site.health import examine
from training.models import Federation, Participation, ParticipationState, PrivacyRelease, Round

ROUNDS_SHOWN, REJECTIONS_SHOWN, EVENTS_SHOWN, FEDERATIONS_SHOWN, INCIDENTS_SHOWN = 10, 8, 12, 20, 8

SELDOM_SECONDS = 60
"""How often what reads the whole fleet or a whole day is asked for."""


@dataclass(frozen=True)
class FederationView:
    """One federation: the round that runs, and its last rounds, newest first."""

    federation: Federation
    rounds: list[RoundRow]

    @property
    def current(self) -> RoundRow | None:
        """The round that runs."""
        return next((row for row in self.rounds if row.running), None)

    @property
    def accuracy(self) -> tuple[int, float] | None:
        """The newest measured accuracy and the number of its round."""
        measured = ((row.round.number, row.accuracy) for row in self.rounds if row.accuracy is not None)
        return next(measured, None)  # type: ignore[arg-type]  # those without are left out


@dataclass(frozen=True)
class EnclaveView:
    """The newest enclave, and what its tier does not protect against."""

    instance: EnclaveInstance
    reasons: list[str]


def read_fleet(now: datetime) -> dict[str, Any]:
    """Return how many devices there are in each state, and those that somebody should look at."""
    counted = dict(Device.objects.order_by().values_list("state").annotate(Count("id")))
    states = [(state.value, state.label, counted.get(state.value, 0)) for state in DeviceState]
    return {
        "states": states,
        "device_count": sum(counted.values()),
        "attention": devices_needing_attention(now),
        "live": True,
        "every": SELDOM_SECONDS,
    }


def read_incidents() -> dict[str, Any]:
    """Return the newest incidents that nobody has closed, and how many there are."""
    unclosed = Incident.objects.exclude(state=IncidentState.CLOSED)
    return {"incidents": unclosed.order_by("-opened_at")[:INCIDENTS_SHOWN], "count": unclosed.count(), "live": True}


def read_health(now: datetime) -> dict[str, Any]:
    """Return the state of each part, the newest enclave and how far the log is signed."""
    report = examine(now)
    parts = [(name, part["status"], tone_of(part["status"]), part["detail"]) for name, part in report["parts"].items()]
    return {
        "status": report["status"],
        "parts": parts,
        "checkpoint": current_checkpoint(),
        "verified": Event.objects.filter(kind__in=("log.verified", "log.damaged")).order_by("-id").first(),
        "enclave": _enclave(),
        "live": True,
    }


def read_federations() -> dict[str, Any]:
    """Return the federations with their last rounds."""
    federations = list(_with_epsilon()[:FEDERATIONS_SHOWN])
    rows: dict[UUID, list[RoundRow]] = defaultdict(list)
    for row in round_rows(_last_rounds(federations)):
        rows[row.round.federation_id].append(row)
    return {"views": [FederationView(one, rows[one.id]) for one in federations], "live": True}


def read_rejections() -> dict[str, Any]:
    """Return the last rejected updates."""
    rejected = Participation.objects.filter(state=ParticipationState.REJECTED)
    shown = ("reason", "submitted_at", "device__name", "round__number", "round__federation__name")
    named = rejected.select_related("device", "round__federation").only(*shown)
    return {"rejections": named.order_by("-id")[:REJECTIONS_SHOWN], "live": True}


def read_events() -> dict[str, Any]:
    """Return what was recorded last."""
    return {"events": Event.objects.order_by("-id")[:EVENTS_SHOWN], "live": True}


def read_figures(now: datetime) -> dict[str, Any]:
    """Return who is online, what fails and how the log grows; a day of hours, which nobody needs every few seconds."""
    figures = (devices_online, failures_by_reason, log_growth)
    return {"heading": "The last day", "shown": [figure(now) for figure in figures]}


def _with_epsilon() -> QuerySet[Federation]:
    """Return the federations with what their last release brought epsilon to, and the number of their last round."""
    releases = PrivacyRelease.objects.filter(federation=OuterRef("pk")).order_by("-number")
    rounds = Round.objects.filter(federation=OuterRef("pk")).order_by("-number")
    return Federation.objects.annotate(
        epsilon_spent=Subquery(releases.values("epsilon_spent")[:1]), last_round=Subquery(rounds.values("number")[:1])
    ).order_by("name")


def _last_rounds(federations: Iterable[Any]) -> QuerySet[Round]:
    """Return the last rounds of each federation, newest first; they are numbered through."""
    begun = [federation for federation in federations if federation.last_round is not None]
    if not begun:
        return Round.objects.none()
    shown_of = [Q(federation=one, number__gt=one.last_round - ROUNDS_SHOWN) for one in begun]
    return Round.objects.filter(functools.reduce(operator.or_, shown_of)).order_by("-number")


def _enclave() -> EnclaveView | None:
    shown = EnclaveInstance.objects.only("attester", "tier", "appraisal", "prepared_at", "retired_at")
    newest = shown.order_by("-prepared_at").first()
    if newest is None:
        return None
    lowered = [reason for reason in newest.appraisal["reasons"] if reason not in left_open(newest.attester)]
    return EnclaveView(newest, [*left_open(newest.attester), *lowered])
