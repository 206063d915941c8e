"""The site as a whole: devices online, and how the log grows."""

from datetime import datetime

from django.db.models import Count, Max, Q, QuerySet
from django.db.models.functions import TruncHour
from django.template.defaultfilters import pluralize

from audit.models import Checkpoint
from qflare_site.console.figures.hours import DAY, HOUR, full_hours, stamp
from qflare_site.console.plots.drawing import SERIES, Point, Series
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import line_plot
from qflare_site.console.plots.scales import number_scale, time_scale
from qflare_site.console.plots.units import COUNT
from sessions.models import Session


def devices_online(now: datetime) -> Figure:
    """Return how many devices had a live session at each full hour of the last 24, and now.

    Source: `Session` rows: activated, not ended, not expired at that moment, each device counted once. Sessions are
    kept for QFLARE_RETENTION_SESSION_DAYS after their end, at least a day.
    """
    moments = sorted({*full_hours(now), now})
    counted = _live_sessions(now).aggregate(
        **{f"at_{place}": _devices_at(moment) for place, moment in enumerate(moments)}
    )
    online = [counted[f"at_{place}"] for place in range(len(moments))]
    points = tuple(
        Point(moment.timestamp(), float(devices), f"{stamp(moment)}: {devices} device{pluralize(devices)} online")
        for moment, devices in zip(moments, online, strict=True)
    )
    y = number_scale([float(devices) for devices in online], COUNT, from_zero=True, whole=True)
    rows = [(Cell(stamp(moment)), Cell(str(devices))) for moment, devices in zip(moments, online, strict=True)]
    return Figure(
        "online",
        "Devices online",
        "Devices with a live session, at each full hour of the last 24 (UTC) and now.",
        line_plot([Series("Devices", SERIES[0], points)], time_scale(moments[0], now), y) if any(online) else None,
        Table((Column("Time (UTC)", number=False), Column("Devices")), tuple(reversed(rows))),
        "No device has had a session in the last 24 hours.",
    )


def _live_sessions(now: datetime) -> QuerySet[Session]:
    begun = Session.objects.filter(activated_at__isnull=False, activated_at__lte=now, expires_at__gt=now - DAY)
    return begun.filter(Q(ended_at=None) | Q(ended_at__gt=now - DAY)).order_by()


def _devices_at(moment: datetime) -> Count:
    alive = Q(activated_at__lte=moment, expires_at__gt=moment) & (Q(ended_at=None) | Q(ended_at__gt=moment))
    return Count("device", distinct=True, filter=alive)


def log_growth(now: datetime) -> Figure:
    """Return how many entries the log had at the end of each of the last 24 hours.

    Source: `Checkpoint.size`, the largest that the log's key signed in each hour; an hour without a checkpoint,
    which happens only while no worker runs, has no value.
    """
    checkpoints = Checkpoint.objects.filter(created_at__gt=now - DAY, created_at__lte=now).order_by()
    sizes = list(
        checkpoints.annotate(hour=TruncHour("created_at")).values_list("hour").annotate(Max("size")).order_by("hour")
    )
    points = tuple(
        Point(min(hour + HOUR, now).timestamp(), float(size), f"{stamp(hour)}: {size} entr{pluralize(size, 'y,ies')}")
        for hour, size in sizes
    )
    x, y = time_scale(now - DAY, now), number_scale([point.y or 0.0 for point in points], COUNT, whole=True)
    return Figure(
        "growth",
        "Growth of the log",
        "Entries in the log as its checkpoints sign them, at the end of each of the last 24 hours (UTC).",
        line_plot([Series("Entries", SERIES[0], points)], x, y) if points else None,
        Table(
            (Column("Hour (UTC)", number=False), Column("Entries"), Column("New")),
            tuple(reversed(_growth_rows(sizes))),
        ),
        "No checkpoint was signed in the last 24 hours: see whether a worker runs.",
    )


def _growth_rows(sizes: list[tuple[datetime, int]]) -> list[tuple[Cell, ...]]:
    before: list[int | None] = [None, *(size for _, size in sizes)]
    return [
        (Cell(stamp(hour)), Cell(str(size)), Cell("–" if last is None else str(size - last)))
        for (hour, size), last in zip(sizes, before, strict=False)
    ]
