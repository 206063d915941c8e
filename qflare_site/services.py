"""The verbs of the site."""

from datetime import datetime, timedelta

from django.db import transaction

from qflare_site.models import ProcessHeartbeat

FORGOTTEN_AFTER = timedelta(days=1)


@transaction.atomic
def record_heartbeat(process: str, *, host: str, pid: int | None, now: datetime) -> None:
    """Note that a process lives, and forget hosts that have been silent for a day."""
    ProcessHeartbeat.objects.update_or_create(process=process, host=host, defaults={"pid": pid, "seen_at": now})
    ProcessHeartbeat.objects.filter(process=process, seen_at__lt=now - FORGOTTEN_AFTER).delete()
