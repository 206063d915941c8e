"""When a row that a worker holds for a time is free again."""

from datetime import datetime, timedelta

from django.db.models import Q


def not_held(column: str, lease_time: timedelta, now: datetime) -> Q:
    """Return the condition that nobody holds a row; `column` is the end of its lease, which lasts `lease_time`.

    Nobody is given a lease that ends later than twice its time from now: that one was given before the clock
    was put back, and whoever is still at the work loses no more by it than time.
    """
    return Q(**{column: None}) | Q(**{f"{column}__lte": now}) | Q(**{f"{column}__gt": now + 2 * lease_time})
