"""What was refused and what failed, by reason."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db.models import Case, CharField, Count, F, Value, When
from django.db.models.fields.json import KT
from django.db.models.functions import Coalesce, NullIf, TruncHour
from django.urls import reverse

from audit.models import Event
from qflare_site.console.figures.hours import DAY, hours_until, stamp
from qflare_site.console.plots.drawing import SERIES, Drawing, Point, Series
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import stacked_bars
from qflare_site.console.plots.scales import category_scale, number_scale
from qflare_site.console.plots.units import COUNT

REASONS_SHOWN = 5
REASON_IN_PAYLOAD = ("session.refused", "request.refused", "token.refused", "update.rejected")
"""Their reasons are words of ours; those of other kinds may be anybody's, and without number."""
FAILURES = (*REASON_IN_PAYLOAD, "update.failed", "round.failed", "operator.sign_in_failed", "rate.exceeded")


def failures_by_reason(now: datetime) -> Figure:
    """Return what was refused or failed in the last 24 hours, hour by hour, by reason.

    Source: events of the log. A refusal and a rejected update count under the reason in their payload, an excess
    (HTTP 429; one event for each caller, scope and window, however many requests follow) under its scope, everything
    else under its kind. The five most frequent are drawn by themselves, all others together.
    """
    rows = _failures(now)
    totals = _totals(rows)
    hours = hours_until(now)
    return Figure(
        "failures",
        "Failures and refused requests",
        "Events of the last 24 hours (UTC) by reason; an excess of requests (429) is one event for each caller and "
        "window.",
        _drawing(rows, list(totals), hours) if rows else None,
        _table(totals),
        "Nothing was refused and nothing failed in the last 24 hours.",
    )


FailureRow = tuple[datetime, str, str, int]
Reason = tuple[str, str]
"""Kind of event, and reason."""


def _failures(now: datetime) -> list[FailureRow]:
    reason = Case(
        When(kind__in=REASON_IN_PAYLOAD, then=Coalesce(NullIf(KT("payload__reason"), Value("")), F("kind"))),
        When(kind="rate.exceeded", then=Coalesce(KT("payload__scope"), F("kind"))),
        default=F("kind"),
        output_field=CharField(),
    )
    events = Event.objects.filter(kind__in=FAILURES, occurred_at__gt=now - DAY, occurred_at__lte=now).order_by()
    grouped = events.annotate(hour=TruncHour("occurred_at"), why=reason).values_list("hour", "kind", "why")
    return list(grouped.annotate(Count("id")))


def _totals(rows: Iterable[FailureRow]) -> dict[Reason, int]:
    """Return how often each reason occurs, the most frequent first."""
    totals: dict[Reason, int] = defaultdict(int)
    for _, kind, reason, count in rows:
        totals[kind, reason] += count
    return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))


def _drawing(rows: list[FailureRow], ranked: list[Reason], hours: list[datetime]) -> Drawing:
    y = number_scale(_totals_by_hour(rows, hours), COUNT, from_zero=True, whole=True)
    return stacked_bars(_layers(rows, ranked, hours), category_scale([f"{hour:%H:%M}" for hour in hours]), y)


def _table(totals: dict[Reason, int]) -> Table:
    return Table(
        (Column("Reason", number=False), Column("Kind", number=False), Column("Events")),
        tuple(
            (Cell(reason), Cell(kind, _events_of(kind)), Cell(str(count))) for (kind, reason), count in totals.items()
        ),
    )


def _totals_by_hour(rows: Iterable[FailureRow], hours: Sequence[datetime]) -> list[float]:
    totals = dict.fromkeys(hours, 0.0)
    for hour, _, _, count in rows:
        totals[hour] += count
    return list(totals.values())


def _layers(rows: list[FailureRow], ranked: list[Reason], hours: list[datetime]) -> list[Series]:
    shown = ranked[:REASONS_SHOWN]
    names = [_reason_words(kind, reason) for kind, reason in shown]
    counts: list[dict[datetime, int]] = [defaultdict(int) for _ in range(len(shown) + 1)]
    for hour, kind, reason, count in rows:
        counts[shown.index((kind, reason)) if (kind, reason) in shown else -1][hour] += count
    named = [*zip(names, SERIES, counts, strict=False)]
    if len(ranked) > REASONS_SHOWN:
        named.append(("all others", SERIES[REASONS_SHOWN], counts[-1]))
    return [
        Series(name, style, tuple(_hour_point(name, place, hour, of[hour]) for place, hour in enumerate(hours)))
        for name, style, of in named
    ]


def _reason_words(kind: str, reason: str) -> str:
    return f"429, {reason}" if kind == "rate.exceeded" else reason


def _hour_point(name: str, place: int, hour: datetime, count: int) -> Point:
    return Point(float(place), float(count), f"{stamp(hour)}: {count} × {name}")


def _events_of(kind: str) -> str:
    return f"{reverse('console:log-entries')}?kind={kind}"
