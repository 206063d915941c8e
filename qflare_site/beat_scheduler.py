"""The scheduler of beat: django_celery_beat's, which goes on where the clock is put back."""

from datetime import datetime, timedelta
from typing import Any

from celery.schedules import schedstate
from django.utils import timezone
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

A_MOMENT = timedelta(seconds=1)
"""A run this far ahead is waited for: clocks are put right by less than this all the time."""


class SteadyEntry(ModelEntry):
    """What is sent, and when; a last run in the future was before the clock was put back."""

    def is_due(self) -> schedstate:
        """Say whether to send it now, and in how many seconds to ask again.

        After a clock was put back, what has an interval is due at once, and what has times of day at the next of
        them that the clock shows, though it may have shown it before.
        """
        now = self._default_now()
        if self.last_run_at > now + A_MOMENT:
            self.last_run_at = now - getattr(self.schedule, "run_every", A_MOMENT)
        return super().is_due()


class SteadyScheduler(DatabaseScheduler):
    """The schedule of the database, asked anew where the clock is put back: its queue is in order of the old times."""

    Entry = SteadyEntry
    _ticked_at: datetime | None = None

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due first; return in how many seconds to come back."""
        now = timezone.now()
        if self._ticked_at is not None and now < self._ticked_at:
            self._last_full_sync = datetime.min  # so that it reads the schedule and makes its queue anew
        self._ticked_at = now
        seconds: float = super().tick(*args, **kwargs)
        return seconds
