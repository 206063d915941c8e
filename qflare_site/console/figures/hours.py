"""The last 24 hours in UTC, cut at the full hours."""

from datetime import datetime, timedelta

HOURS = 24
DAY = timedelta(hours=HOURS)
HOUR = timedelta(hours=1)


def full_hours(now: datetime) -> list[datetime]:
    """Return the full hours of the last 24, the oldest first."""
    last = now.replace(minute=0, second=0, microsecond=0)
    return [last - timedelta(hours=back) for back in range(HOURS - 1, -1, -1)]


def hours_until(now: datetime) -> list[datetime]:
    """Return the begin of every hour that has a part in the last 24, the oldest first."""
    first = full_hours(now)[0] - HOUR
    return [first, *full_hours(now)]


def stamp(moment: datetime) -> str:
    """Return a moment as it stands in tables, to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}"
