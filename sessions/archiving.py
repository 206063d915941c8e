"""Retention of sessions: a session that ended long ago goes to the archive and leaves the database.

Its keys and stored answers went when it ended; what is archived is what the admin shows of it. The sweep
(`sessions.services.sweep_sessions`) ends sessions and forgets keys, every minute; this runs once a day.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models, transaction

from audit.archive import ArchiveFile
from audit.services import record_event
from sessions.models import Exchange, Session, SessionState

BATCH = 2000
_ARCHIVED = (
    "id", "device_id", "device__name", "suite", "key_version", "qkd", "generation", "first_epoch", "epoch", "requests",
    "transfer_bytes", "challenged_at", "activated_at", "expires_at", "ended_at", "end_reason",
)  # fmt: skip


def sessions_to_archive(now: datetime) -> models.QuerySet[Session]:
    """Return the sessions that ended long enough ago; challenges that nobody answered were none."""
    before = now - timedelta(days=settings.QFLARE_RETENTION["session_days"])
    ended = Session.objects.filter(state=SessionState.ENDED, ended_at__lte=before)
    return ended.exclude(activated_at=None).order_by("ended_at", "id")


def archive_sessions(*, now: datetime) -> int:
    """Archive and delete them batch by batch, each with its event; return how many.

    No row is locked: an ended session never changes, and two runs at once archive a row twice and lose none.
    Raises `OSError` when the archive cannot be written: what is not in it is not deleted.
    """
    archived = 0
    with ArchiveFile("sessions", now) as archive:
        while batch := _archive_batch(archive, now):
            archived += batch
    return archived


@transaction.atomic
def _archive_batch(archive: ArchiveFile, now: datetime) -> int:
    rows = list(sessions_to_archive(now).values(*_ARCHIVED)[:BATCH])
    if not rows:
        return 0
    archive.append(rows)
    ids = [row["id"] for row in rows]
    # Two statements: Django's own deletion would fetch every row again to look for what hangs on it.
    Exchange.objects.filter(session_id__in=ids)._raw_delete("default")
    deleted: int = Session.objects.filter(id__in=ids)._raw_delete("default")
    payload = {"count": deleted, "file": archive.path.name}
    record_event("sessions.archived", actor="system", payload=payload, now=now)
    return len(ids)
