"""When rounds open by themselves: at an interval, by a crontab, or when enough devices are idle; one way each."""

import json
from datetime import datetime, timedelta
from typing import Any

from celery.schedules import ParseException, crontab
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from audit.services import record_event
from devices.models import Device
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import whole_number
from training.models import UNFINISHED, WAITING, Federation, FederationState, Participation, Round, RoundState
from training.services.presence import present_for
from training.services.selection import has_candidates
from training.terms import Mode

CRONTAB_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
MAX_IDLE_DEVICES = 1_000_000


@transaction.atomic
def schedule_rounds(federation: Federation, *, every: timedelta, actor: str) -> PeriodicTask:
    """Let beat open a round at an interval, whenever the last one is over."""
    seconds = max(1, round(every.total_seconds()))
    interval, _ = IntervalSchedule.objects.get_or_create(every=seconds, period=IntervalSchedule.SECONDS)
    return _set_entry(federation, f"every {seconds} s", actor, interval=interval)


@transaction.atomic
def schedule_rounds_by_crontab(federation: Federation, *, expression: str, actor: str) -> PeriodicTask:
    """Let beat open a round by a crontab of five fields in UTC.

    Raises `Refusal("malformed-message")` for an expression that is none.
    """
    fields = dict(zip(CRONTAB_FIELDS, expression.split(), strict=False))
    try:
        if len(expression.split()) != len(CRONTAB_FIELDS):
            raise ValueError("it has not five fields")
        crontab(**fields)
    except (ParseException, ValueError) as error:
        raise Refusal("malformed-message", f"{expression!r} is no crontab: {error}.") from error
    entry, _ = CrontabSchedule.objects.get_or_create(**fields, timezone="UTC")
    return _set_entry(federation, f"by crontab {' '.join(fields.values())}", actor, crontab=entry)


@transaction.atomic
def schedule_rounds_when_idle(federation: Federation, *, idle_devices: int, actor: str) -> None:
    """Let the tick open a round whenever so many of the federation's devices are idle.

    Raises `Refusal("malformed-message")` for a number that is not between 1 and a million.
    """
    whole_number(idle_devices, 1, MAX_IDLE_DEVICES, what="number of idle devices")
    Federation.objects.filter(id=federation.id).update(idle_devices=idle_devices)  # its row first, as elsewhere
    _forget_entry(federation)
    _record(federation, f"when {idle_devices} devices are idle", actor)


@transaction.atomic
def unschedule_rounds(federation: Federation, *, actor: str) -> None:
    """Open no more rounds by themselves. Raises `Refusal("conflict")` where there is no schedule."""
    had_idle = Federation.objects.filter(id=federation.id, idle_devices__isnull=False).update(idle_devices=None)
    if not _forget_entry(federation) and not had_idle:
        raise Refusal("conflict", f"{federation} has no schedule.")
    _record(federation, "by hand only", actor)


def _set_entry(federation: Federation, when: str, actor: str, **schedule: Any) -> PeriodicTask:
    Federation.objects.filter(id=federation.id).update(idle_devices=None)
    entry, _ = PeriodicTask.objects.update_or_create(
        name=schedule_name(federation),
        defaults={
            "task": "training.tasks.open_scheduled_round",
            "interval": None,
            "crontab": None,
            "kwargs": json.dumps({"federation_id": str(federation.id)}),
            "enabled": True,
            **schedule,
        },
    )
    _record(federation, when, actor)
    return entry


def _forget_entry(federation: Federation) -> bool:
    entry = PeriodicTask.objects.filter(name=schedule_name(federation)).first()
    if entry is None:
        return False
    entry.delete()  # one by one, so that beat hears of it
    return True


def schedule_name(federation: Federation) -> str:
    """Return the name of the entry by which beat opens a federation's rounds."""
    return f"open rounds of {federation.name}"


def _record(federation: Federation, when: str, actor: str) -> None:
    payload = {"federation_id": str(federation.id), "federation": federation.name, "when": when}
    record_event("federation.scheduled", actor=actor, payload=payload)


def due_federations(now: datetime) -> list[Federation]:
    """Return the federations for which the tick opens a round: asynchronous ones, and those with enough idle devices.

    None that has a round running or has had its planned rounds; whether a round can be opened is for
    `open_scheduled_round` to say.
    """
    running = Round.objects.filter(federation=OuterRef("pk"), state__in=UNFINISHED)
    waiting = Federation.objects.filter(~Exists(running), ~_had_its_rounds(), state=FederationState.ACTIVE)
    asynchronous = waiting.filter(mode=Mode.ASYNCHRONOUS)
    idle = waiting.filter(mode=Mode.SYNCHRONOUS, idle_devices__isnull=False)
    return [
        *(federation for federation in asynchronous if has_candidates(federation, federation.members(), 1)),
        *(
            federation
            for federation in idle
            if has_candidates(federation, idle_members(federation, now), federation.idle_devices or 1)
        ),
    ]


def _had_its_rounds() -> Q:
    completed = Round.objects.filter(federation=OuterRef("pk"), state=RoundState.COMPLETED).order_by()
    count = completed.values("federation").annotate(count=Count("pk")).values("count")
    return Q(planned_rounds__isnull=False, planned_rounds__lte=Coalesce(Subquery(count), 0))


def idle_members(federation: Federation, now: datetime) -> QuerySet[Device]:
    """Return the members of an active federation that are present and that no open round waits for."""
    heard_since = now - present_for(federation.round_seconds)
    busy = Participation.objects.filter(device=OuterRef("pk"), state__in=WAITING, round__state__in=UNFINISHED)
    return federation.members().filter(~Exists(busy), last_seen_at__gte=heard_since)
