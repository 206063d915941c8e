"""Celery entry points of the audit log (queue `audit`)."""

from celery import shared_task
from django.utils import timezone

from audit import retention, services


@shared_task(name="audit.tasks.sequence")
def sequence() -> None:
    """Append waiting events to the log and sign it. Several at once do no harm: they take turns."""
    services.sequence_log()


@shared_task(name="audit.tasks.archive_disclosures")
def archive_disclosures() -> None:
    """Archive and erase disclosures whose time is over."""
    retention.archive_disclosures(now=timezone.now())
