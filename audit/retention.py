"""Retention of disclosures: what events of the log tell is archived and erased when its time is over.

Entries, kinds, times and proofs stay for ever. The archive holds each disclosure in the bytes that its entry
commits to, so that whoever keeps the file can still show what happened.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models, transaction

from audit.archive import ArchiveFile
from audit.models import Event
from audit.services import erase_disclosures

BATCH = 1000


def disclosures_to_erase(now: datetime) -> models.QuerySet[Event]:
    """Return the events of the log whose disclosure has had its time; none where it is kept for ever."""
    days = settings.QFLARE_RETENTION["disclosure_days"]
    kept_for_ever = days == 0
    due = Event.objects.filter(sequenced=True, erased_at=None, occurred_at__lte=now - timedelta(days=days))
    return due.none() if kept_for_ever else due.order_by("occurred_at", "id")


def archive_disclosures(*, now: datetime) -> int:
    """Archive and erase them batch by batch; return how many.

    Raises `OSError` when the archive cannot be written: what is not in it is not erased.
    """
    erased = 0
    with ArchiveFile("disclosures", now) as archive:
        # Erasing records an event, which has to be younger than what is due: else there would be no end.
        while batch := _archive_batch(archive, now):
            erased += batch
    return erased


@transaction.atomic
def _archive_batch(archive: ArchiveFile, now: datetime) -> int:
    events = list(disclosures_to_erase(now).select_related("entry").select_for_update(of=("self",))[:BATCH])
    if not events:
        return 0
    archive.append(
        {
            "index": event.entry.index,
            "event_id": event.event_id,
            "occurred_at": event.occurred_at,
            "kind": event.kind,
            "actor": event.actor,
            "payload": event.payload,
            "disclosure": event.disclosure_bytes(),
        }
        for event in events
    )
    reason = f"kept for {settings.QFLARE_RETENTION['disclosure_days']} days; archived in {archive.path.name}"
    return erase_disclosures([event.id for event in events], reason=reason, actor="system", now=now)
