"""Celery entry points of the monitor. Two of one kind at once do no harm: rows and messages are claimed."""

from celery import shared_task
from django.utils import timezone

from monitor.services import deliveries
from monitor.services import watch as watching


@shared_task
def watch() -> None:
    """Read what is new in the log, and answer it."""
    watching.watch(now=timezone.now())


@shared_task
def deliver() -> None:
    """Send the notifications that are due."""
    deliveries.deliver_due(now=timezone.now())
