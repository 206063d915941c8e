"""How long the steps of all rounds took, without reading all of them at every scrape."""

import threading
from datetime import datetime, timedelta

from django.db.models import Count, Q, QuerySet, Sum

from training.models import RoundStep

STEP_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0)
SETTLED_AFTER = timedelta(minutes=5)

Totals = dict[str, tuple[float, ...]]
"""By step: how many took at most each of `STEP_SECONDS`, how many there are, and their seconds together."""


class StepTimes:
    """Adds up the steps of rounds, most of them once in the life of this process.

    On PostgreSQL a row may be committed after one of a higher id. So what has been there for `SETTLED_AFTER`
    is kept as a sum, and only younger rows are read each time. A step that a round repeats later than that
    counts with the time it took first.
    """

    def __init__(self) -> None:
        self._settled: Totals = {}
        self._settled_to = self._seen_to = 0
        self._seen_at: datetime | None = None
        self._lock = threading.Lock()

    def totals(self, now: datetime) -> Totals:
        """Return the totals of all steps there are."""
        with self._lock:
            if self._seen_at is None or not timedelta() <= now - self._seen_at < SETTLED_AFTER:
                self._settle(now)
            return _together(self._settled, _added_up(RoundStep.objects.filter(id__gt=self._settled_to)))

    def _settle(self, now: datetime) -> None:
        """Keep the sum of what was seen the last time, and see what there is now."""
        seen = RoundStep.objects.filter(id__gt=self._settled_to, id__lte=self._seen_to)
        self._settled = _together(self._settled, _added_up(seen))
        self._settled_to = self._seen_to
        self._seen_to = RoundStep.objects.order_by("-id").values_list("id", flat=True).first() or 0
        self._seen_at = now


def _added_up(steps: QuerySet[RoundStep]) -> Totals:
    within = {f"within_{place}": Count("id", filter=Q(seconds__lte=most)) for place, most in enumerate(STEP_SECONDS)}
    rows = steps.order_by().values("name").annotate(**within, all=Count("id"), seconds_sum=Sum("seconds"))
    return {row["name"]: (*(row[name] for name in within), row["all"], row["seconds_sum"]) for row in rows}


def _together(first: Totals, second: Totals) -> Totals:
    nothing = (0,) * (len(STEP_SECONDS) + 2)
    return {
        name: tuple(map(sum, zip(first.get(name, nothing), second.get(name, nothing), strict=True)))
        for name in first | second
    }
