"""Celery entry points of the audit log (queue `audit`)."""

from celery import shared_task

from audit import services


@shared_task(name="audit.tasks.sequence")
def sequence() -> None:
    """Append waiting events to the log and sign it. Several at once do no harm: they take turns."""
    services.sequence_log()
