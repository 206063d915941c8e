"""What runs now, read in a number of queries that does not grow with federations, rounds or devices."""

import functools
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery

from audit.models import Event
from devices.models import Device, DeviceState
from enclave.models import EnclaveInstance
from monitor.models import Incident, IncidentState
from operator_admin.tones import tone_of
from qflare_protocol.attestation.limits import left_open
from qflare_site.console.plot import Plot, accuracy_plot
from training.models import UNFINISHED, Federation, Participation, ParticipationState, PrivacyRelease, Round, RoundState

ROUNDS_SHOWN, REJECTIONS_SHOWN, EVENTS_SHOWN, FEDERATIONS_SHOWN, INCIDENTS_SHOWN = 10, 10, 15, 50, 10

Counts = Mapping[UUID, Mapping[str, int]]


@dataclass(frozen=True)
class RoundRow:
    """One round as a row of its federation's table; `seconds_left` only while it is open."""

    id: UUID
    number: int
    state: str
    word: str
    tone: str
    invited: int
    submissions: int
    accepted: int
    rejected: int
    accuracy: float | None
    reason: str
    seconds_left: int | None

    @property
    def running(self) -> bool:
        """Whether the round still runs."""
        return self.state in UNFINISHED


@dataclass(frozen=True)
class FederationView:
    """One federation: the round that runs, the last rounds newest first, and how accuracy went."""

    federation: Federation
    tone: str
    rounds: list[RoundRow]
    plot: Plot | None

    @property
    def current(self) -> RoundRow | None:
        """The round that runs."""
        return next((row for row in self.rounds if row.running), None)


@dataclass(frozen=True)
class EnclaveView:
    """The newest enclave: its tier, and what that tier does not protect against."""

    instance: EnclaveInstance
    tone: str
    reasons: list[str]


@dataclass(frozen=True)
class Overview:
    """Everything on the first page."""

    federations: list[FederationView]
    device_states: list[tuple[str, str, str, int]]
    incidents: list[tuple[Incident, str, str]]
    rejections: list[Participation]
    events: list[Event]
    enclave: EnclaveView | None

    @property
    def device_count(self) -> int:
        """How many devices are enrolled, whatever their state."""
        return sum(count for *_, count in self.device_states)


def read_overview(now: datetime) -> Overview:
    """Read the first page at the time `now`."""
    return Overview(
        federations=_federations(now),
        device_states=_device_states(),
        incidents=_incidents(),
        rejections=list(_last_rejections()),
        events=list(Event.objects.order_by("-id")[:EVENTS_SHOWN]),
        enclave=_enclave(),
    )


def _federations(now: datetime) -> list[FederationView]:
    federations = list(_with_epsilon()[:FEDERATIONS_SHOWN])
    rows: dict[UUID, list[RoundRow]] = defaultdict(list)
    rounds = list(_last_rounds(federations))
    counts = _counts(round_.id for round_ in rounds)
    for round_ in rounds:
        rows[round_.federation_id].append(_row(round_, counts.get(round_.id, {}), now))
    return [_view(federation, rows[federation.id]) for federation in federations]


def _with_epsilon() -> QuerySet[Federation]:
    """Return the federations with what their last release brought epsilon to, and the number of their last round."""
    releases = PrivacyRelease.objects.filter(federation=OuterRef("pk")).order_by("-number")
    rounds = Round.objects.filter(federation=OuterRef("pk")).order_by("-number")
    return Federation.objects.annotate(
        epsilon_spent=Subquery(releases.values("epsilon_spent")[:1]), last_round=Subquery(rounds.values("number")[:1])
    ).order_by("name")


def _last_rounds(federations: Iterable[Any]) -> QuerySet[Round]:
    """Return the last rounds of each federation, newest first, without the large columns; they are numbered through."""
    begun = [federation for federation in federations if federation.last_round is not None]
    if not begun:
        return Round.objects.none()
    shown_of = [Q(federation=one, number__gt=one.last_round - ROUNDS_SHOWN) for one in begun]
    last = Round.objects.filter(functools.reduce(operator.or_, shown_of))
    shown = (
        "federation_id", "number", "state", "submissions", "deadline_at", "end_reason", "resulting_version__metrics",
    )  # fmt: skip
    return last.select_related("resulting_version").only(*shown).order_by("-number")


def _counts(round_ids: Iterable[UUID]) -> Counts:
    counts: dict[UUID, dict[str, int]] = defaultdict(dict)
    parts = Participation.objects.filter(round__in=list(round_ids)).order_by()
    for round_id, state, count in parts.values_list("round_id", "state").annotate(Count("id")):
        counts[round_id][state] = count
    return counts


def _row(round_: Round, counts: Mapping[str, int], now: datetime) -> RoundRow:
    is_open = round_.state == RoundState.OPEN and round_.deadline_at is not None
    metrics: dict[str, Any] = round_.resulting_version.metrics if round_.resulting_version else {}
    return RoundRow(
        id=round_.id,
        number=round_.number,
        state=round_.state,
        word=round_.get_state_display(),
        tone=tone_of(round_.state),
        invited=sum(counts.values()),
        submissions=round_.submissions,
        accepted=counts.get(ParticipationState.ACCEPTED, 0),
        rejected=counts.get(ParticipationState.REJECTED, 0),
        accuracy=metrics.get("accuracy"),
        reason=round_.end_reason,
        seconds_left=max(0, int((round_.deadline_at - now).total_seconds())) if is_open else None,
    )


def _view(federation: Federation, rows: list[RoundRow]) -> FederationView:
    measured = [(row.number, row.accuracy) for row in reversed(rows) if row.accuracy is not None]
    return FederationView(federation, tone_of(federation.state), rows, accuracy_plot(measured))


def _device_states() -> list[tuple[str, str, str, int]]:
    """Return (state, word, tone, count) for every state there is, also those with no device."""
    counted = dict(Device.objects.order_by().values_list("state").annotate(Count("id")))
    return [(state.value, state.label, tone_of(state.value), counted.get(state.value, 0)) for state in DeviceState]


def _incidents() -> list[tuple[Incident, str, str]]:
    """Return the newest incidents that nobody has closed, with the tones of severity and state."""
    unclosed = Incident.objects.exclude(state=IncidentState.CLOSED).order_by("-opened_at")[:INCIDENTS_SHOWN]
    return [(incident, tone_of(incident.severity), tone_of(incident.state)) for incident in unclosed]


def _last_rejections() -> QuerySet[Participation]:
    rejected = Participation.objects.filter(state=ParticipationState.REJECTED)
    shown = ("reason", "device__name", "round__number", "round__federation__name")
    named = rejected.select_related("device", "round__federation").only(*shown)
    return named.order_by("-id")[:REJECTIONS_SHOWN]


def _enclave() -> EnclaveView | None:
    shown = EnclaveInstance.objects.only("attester", "tier", "appraisal", "prepared_at", "retired_at")
    newest = shown.order_by("-prepared_at").first()
    if newest is None:
        return None
    lowered = [reason for reason in newest.appraisal["reasons"] if reason not in left_open(newest.attester)]
    return EnclaveView(newest, tone_of(newest.tier), [*left_open(newest.attester), *lowered])
