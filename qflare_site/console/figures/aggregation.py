"""How long aggregation takes."""

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from django.template.defaultfilters import pluralize

from qflare_site.console.plots.drawing import SERIES, Point, Series
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import line_plot
from qflare_site.console.plots.scales import Scale, log_scale, number_scale, spans_decades, time_scale
from qflare_site.console.plots.units import SECONDS
from training.models import RoundStep

DAYS = 30
STEPS_READ = 5000


def aggregation_time(now: datetime) -> Figure:
    """Return the median and the 95th percentile of how long aggregation took, day by day over 30 days.

    Source: `RoundStep.seconds` of the step `aggregate`, by the day (UTC) it began; the newest 5,000 steps. The
    percentiles are nearest-rank: of fewer than 20 rounds a day, p95 is the longest.
    """
    by_day = _aggregations(now)
    days = sorted(by_day)
    series = [
        _percentile_series("Median (p50)", 0, 0.50, by_day),
        _percentile_series("95th percentile (p95)", 1, 0.95, by_day),
    ]
    values = [value for one in series for value in one.known()]
    return Figure(
        "aggregation",
        "Aggregation time",
        f"How long aggregating a round took, by day (UTC) over the last {DAYS} days.",
        line_plot(series, time_scale(now - timedelta(days=DAYS), now), _seconds_scale(values)) if values else None,
        Table(
            (Column("Day (UTC)", number=False), Column("Rounds"), Column("p50"), Column("p95")),
            tuple(
                (
                    Cell(f"{day:%Y-%m-%d}"),
                    Cell(str(len(by_day[day]))),
                    *(Cell(SECONDS.words(percentile(by_day[day], share))) for share in (0.50, 0.95)),
                )
                for day in reversed(days)
            ),
        ),
        f"No round was aggregated in the last {DAYS} days.",
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the least value that at least `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _aggregations(now: datetime) -> dict[date, list[float]]:
    steps = RoundStep.objects.filter(name="aggregate", started_at__gt=now - timedelta(days=DAYS), started_at__lte=now)
    by_day: dict[date, list[float]] = defaultdict(list)
    for started_at, seconds in steps.order_by("-started_at").values_list("started_at", "seconds")[:STEPS_READ]:
        by_day[started_at.date()].append(seconds)
    return by_day


def _percentile_series(name: str, place: int, share: float, by_day: dict[date, list[float]]) -> Series:
    points = (
        Point(_noon(day), value, f"{day:%Y-%m-%d}: {SECONDS.words(value)}, {name}, {_rounds(len(by_day[day]))}")
        for day in sorted(by_day)
        for value in [percentile(by_day[day], share)]
    )
    return Series(name, SERIES[place], tuple(points))


def _rounds(count: int) -> str:
    return f"{count} round{pluralize(count)}"


def _seconds_scale(values: list[float]) -> Scale:
    return log_scale(values, SECONDS) if spans_decades(values) else number_scale(values, SECONDS, from_zero=True)


def _noon(day: date) -> float:
    return datetime.fromisoformat(f"{day.isoformat()}T12:00:00+00:00").timestamp()
