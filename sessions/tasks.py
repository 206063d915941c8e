"""Celery entry points of sessions."""

from celery import shared_task
from django.utils import timezone

from sessions import archiving, services


@shared_task
def sweep_sessions() -> None:
    """Forget the keys of sessions that are over and of epochs that are past."""
    services.sweep_sessions(now=timezone.now())
    services.empty_write_ahead_log()


@shared_task
def archive_sessions() -> None:
    """Archive and delete sessions that ended long ago."""
    archiving.archive_sessions(now=timezone.now())
