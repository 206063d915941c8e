"""What the database knows of the site, read anew at every scrape: every web process gives the same numbers."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from audit.kinds import registered_kinds
from audit.models import Checkpoint, Entry, Event
from devices.models import Device, DeviceState
from monitor.models import Incident, IncidentState, Severity
from qflare_site.broker_queues import waiting_messages
from qflare_site.metrics.round_steps import STEP_SECONDS, StepTimes, Totals
from qflare_site.models import ProcessHeartbeat
from training.models import Federation, FederationState, PrivacyRelease, Round, RoundState


class EntryCounts:
    """Counts the log's entries by kind, each once in the life of this process: entries are never changed or deleted."""

    def __init__(self) -> None:
        self._next, self._counts, self._lock = 0, dict[str, int](), threading.Lock()

    def by_kind(self) -> dict[str, int]:
        """Return how many entries of each kind the log has now."""
        with self._lock:
            newest = Entry.objects.order_by("-index").values_list("index", flat=True).first()
            if newest is not None and newest >= self._next:
                new = Entry.objects.filter(index__gte=self._next, index__lte=newest).order_by()
                for kind, count in new.values_list("kind").annotate(Count("index")):
                    self._counts[kind] = self._counts.get(kind, 0) + count
                self._next = newest + 1
            return dict(self._counts)


class SiteCollector(Collector):
    """Gives the families of the database and the broker."""

    def __init__(self, now: Callable[[], datetime] = timezone.now) -> None:
        self._entries, self._steps, self._now = EntryCounts(), StepTimes(), now

    def describe(self) -> list[Metric]:
        """Name nothing beforehand: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything; a database that does not answer is a metric too, and then the only one."""
        try:
            families = list(self._families())
        except (DatabaseError, InterfaceError):
            families = []
        yield GaugeMetricFamily("qflare_database_up", "Whether the database answers.", value=int(bool(families)))
        yield from families

    def _families(self) -> Iterator[Metric]:
        now = self._now()
        yield from self._log(now)
        yield _states("qflare_devices", "Devices by state.", Device.objects, DeviceState)
        yield _states("qflare_federations", "Federations by state.", Federation.objects, FederationState)
        yield _states("qflare_rounds", "Rounds by state.", Round.objects, RoundState)
        yield _open_incidents()
        yield _round_steps(self._steps.totals(now))
        yield from _privacy()
        yield _processes(now)
        yield from _queues()

    def _log(self, now: datetime) -> Iterator[Metric]:
        entries = CounterMetricFamily(
            "qflare_log_entries",
            "Entries of the audit log by kind: handshakes, updates, refusals and whatever else happened.",
            labels=["kind"],
        )
        # A series that begins with its first failure would hide that failure from increase().
        counted = dict.fromkeys(registered_kinds(), 0) | self._entries.by_kind()
        for kind, count in sorted(counted.items()):
            entries.add_metric([kind], count)
        yield entries
        waiting = Event.objects.filter(sequenced=False)
        yield GaugeMetricFamily(
            "qflare_log_waiting_events", "Events that are not in the log yet.", value=waiting.count()
        )
        oldest = waiting.order_by("id").values_list("occurred_at", flat=True).first()
        yield GaugeMetricFamily(
            "qflare_log_lag_seconds", "Age of the oldest event that is not in the log yet.", value=_age(oldest, now)
        )
        yield _checkpoint_age(now)


def _age(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


def _checkpoint_age(now: datetime) -> Metric:
    """Return a gauge that has no sample before the first checkpoint: an age of 0 would look fresh."""
    newest = Checkpoint.objects.order_by("-created_at").values_list("created_at", flat=True).first()
    gauge = GaugeMetricFamily("qflare_checkpoint_age_seconds", "Age of the newest checkpoint of the log.", labels=())
    if newest is not None:
        gauge.add_metric((), _age(newest, now))
    return gauge


def _states(name: str, words: str, rows: Any, states: Any) -> Metric:
    """Return a gauge with a sample for every state there is, also those that nothing is in."""
    # Of rows and not of their keys: an index over the state knows no keys, and is then read in place of the table.
    counted = dict(rows.order_by().values_list("state").annotate(count=Count("*")))
    gauge = GaugeMetricFamily(name, words, labels=["state"])
    for state in states.values:
        gauge.add_metric([state], counted.get(state, 0))
    return gauge


def _open_incidents() -> Metric:
    unclosed = Incident.objects.exclude(state=IncidentState.CLOSED).order_by()
    counted = dict(unclosed.values_list("severity").annotate(count=Count("*")))
    gauge = GaugeMetricFamily("qflare_open_incidents", "Incidents that nobody has closed.", labels=["severity"])
    for severity in Severity.values:
        gauge.add_metric([severity], counted.get(severity, 0))
    return gauge


def _round_steps(totals: Totals) -> Metric:
    """Return how long the steps of rounds took: preparing, collecting, aggregating, publishing, evaluating."""
    family = HistogramMetricFamily("qflare_round_step_seconds", "How long a step of a round took.", labels=["step"])
    bounds = [*map(str, STEP_SECONDS), "+Inf"]
    for step, (*counts, seconds) in totals.items():
        family.add_metric([step], list(zip(bounds, counts, strict=True)), seconds)
    return family


def _privacy() -> Iterator[Metric]:
    spent = GaugeMetricFamily(
        "qflare_privacy_epsilon_spent", "What a federation's releases have spent.", labels=["federation"]
    )
    budget = GaugeMetricFamily(
        "qflare_privacy_epsilon_budget", "What a federation's releases may spend.", labels=["federation"]
    )
    for name, allowed, used in _with_epsilon().values_list("name", "privacy_budget_epsilon", "epsilon_spent"):
        spent.add_metric([name], used or 0.0)
        if allowed is not None:
            budget.add_metric([name], allowed)
    yield from (spent, budget)


def _with_epsilon() -> QuerySet[Federation]:
    last = PrivacyRelease.objects.filter(federation=OuterRef("pk")).order_by("-number")
    private = Federation.objects.filter(privacy_delta__isnull=False)
    return private.annotate(epsilon_spent=Subquery(last.values("epsilon_spent")[:1]))


def _processes(now: datetime) -> Metric:
    gauge = GaugeMetricFamily(
        "qflare_process_silent_seconds", "Time since the last sign of life of a process.", labels=["process", "host"]
    )
    for process, host, seen_at in ProcessHeartbeat.objects.values_list("process", "host", "seen_at"):
        gauge.add_metric([process, host], _age(seen_at, now))
    return gauge


def _queues() -> Iterator[Metric]:
    """Give the queues' lengths; a broker that does not answer is a metric too."""
    gauge = GaugeMetricFamily("qflare_queue_messages", "Messages that wait in a queue.", labels=["queue"])
    reachable = 1
    try:
        for queue, waiting in waiting_messages().items():
            gauge.add_metric([queue], waiting)
    except (RedisError, OSError):
        reachable = 0
    yield gauge
    yield GaugeMetricFamily("qflare_broker_up", "Whether the broker answers.", value=reachable)
