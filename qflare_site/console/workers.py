"""Processes, queues, schedules and failed tasks: what runs beside the web, and whether it does."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from redis.exceptions import RedisError

from qflare_site.broker_queues import waiting_messages
from qflare_site.console.figures.aggregation import aggregation_time
from qflare_site.console.listing import Choice, Listing
from qflare_site.console.pages import Panel, console_page, show, show_panels
from qflare_site.models import ProcessHeartbeat, TaskFailure

SCHEDULES_SHOWN = 200
FAILURES_SHOWN = 10
TASKS_OFFERED = 50


@dataclass(frozen=True)
class Process:
    """One process by its last sign of life; `alive` while that is younger than 30 seconds."""

    heartbeat: ProcessHeartbeat
    alive: bool


@dataclass(frozen=True)
class Schedule:
    """One entry of beat: `next_run_at` is None where it is off, or is due by something else than the clock."""

    entry: PeriodicTask
    when: str
    next_run_at: datetime | None


def read_processes(now: datetime) -> dict[str, Any]:
    """Return the signs of life, and how many messages wait in each queue; always alive."""
    heartbeats = ProcessHeartbeat.objects.order_by("process", "host")
    processes = [Process(one, now - one.seen_at <= ProcessHeartbeat.MAX_AGE) for one in heartbeats]
    try:
        queues, fault = waiting_messages(), ""
    except (RedisError, OSError) as error:
        queues, fault = {}, f"The broker does not answer ({type(error).__name__})."
    return {"processes": processes, "queues": queues, "broker_fault": fault, "live": True}


def read_schedules(now: datetime) -> dict[str, Any]:
    """Return the entries of beat by name, at most 200, each with when it runs next; always alive."""
    entries = PeriodicTask.objects.select_related("interval", "crontab").order_by("name")[:SCHEDULES_SHOWN]
    return {"schedules": [Schedule(entry, _when(entry), next_run_at(entry, now)) for entry in entries], "live": True}


def next_run_at(entry: PeriodicTask, now: datetime) -> datetime | None:
    """Return when beat sends a task next, not before `now`.

    None of one that is off, has no interval or crontab, or is next due behind the end of the calendar.
    """
    if not entry.enabled or not (entry.interval or entry.crontab):
        return None
    last = entry.last_run_at or entry.date_changed
    if entry.interval:
        try:
            return max(now, last + timedelta(**{entry.interval.period: entry.interval.every}))
        except OverflowError:
            return None
    begin, further, _ = entry.crontab.schedule.remaining_delta(last)
    return max(now, begin + further)


def _when(entry: PeriodicTask) -> str:
    if entry.interval:
        return _every(entry.interval)
    return f"{_fields(entry.crontab)} {entry.crontab.timezone}" if entry.crontab else "once"


def _every(interval: IntervalSchedule) -> str:
    return f"every {interval.every} {interval.period}" if interval.every != 1 else f"every {interval.period[:-1]}"


def _fields(crontab: CrontabSchedule) -> str:
    fields = (crontab.minute, crontab.hour, crontab.day_of_month, crontab.month_of_year, crontab.day_of_week)
    return " ".join(map(str, fields))


def read_failures() -> dict[str, Any]:
    """Return the newest tasks that ended with an error; always alive."""
    return {"failures": list(TaskFailure.objects.order_by("-id")[:FAILURES_SHOWN]), "live": True}


@console_page("qflare_site.view_processheartbeat")
def show_workers(request: HttpRequest) -> HttpResponseBase:
    """Answer `/workers`: of processes, queues, schedules, failed tasks and aggregation what this operator may see."""
    now = timezone.now()
    panels = {
        "processes": Panel("worker_processes", lambda: read_processes(now), "qflare_site.view_processheartbeat"),
        "aggregation": Panel("worker_aggregation", lambda: _aggregation(now), "training.view_roundstep"),
        "failures": Panel("worker_failures", read_failures, "qflare_site.view_taskfailure"),
        "schedules": Panel("worker_schedules", lambda: read_schedules(now), "django_celery_beat.view_periodictask"),
    }
    return show_panels(request, "console/workers.html", panels, title="Schedules and workers")


def _aggregation(now: datetime) -> dict[str, Any]:
    return {"aggregation": aggregation_time(now)}


@console_page("qflare_site.view_taskfailure")
def list_failures(request: HttpRequest) -> HttpResponseBase:
    """Answer `/workers/failures`: the tasks that ended with an error, newest first."""
    names = TaskFailure.objects.order_by("task").values_list("task", flat=True).distinct()[:TASKS_OFFERED]
    choices = (Choice("task", "Task", _pairs(names)),)
    listing = Listing.of(TaskFailure.objects.order_by("-id"), request, choices=choices)
    return show(request, "console/failures.html", title="Failed tasks", trail=_trail(), listing=listing)


def _pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def _trail() -> list[tuple[str, str]]:
    return [("Schedules and workers", reverse("console:workers"))]
