"""Celery entry points of the audit log (queue `audit`)."""

from celery import shared_task
from django.utils import timezone

from audit import anchoring, retention, services


@shared_task(name="audit.tasks.sequence")
def sequence() -> None:
    """Append waiting events to the log and sign it. Several at once do no harm: they take turns."""
    services.sequence_log()


@shared_task(name="audit.tasks.archive_disclosures")
def archive_disclosures() -> None:
    """Archive and erase disclosures whose time is over."""
    retention.archive_disclosures(now=timezone.now())


@shared_task(name="audit.tasks.anchor")
def anchor() -> None:
    """Lay down checkpoints where that is due; what cannot be reached is tried again by a later run."""
    anchoring.anchor_log(now=timezone.now())
