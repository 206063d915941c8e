"""Celery entry points of the site."""

from celery import shared_task
from django.utils import timezone

from qflare_site.services import record_heartbeat


@shared_task
def record_beat_heartbeat() -> None:
    """Note that a task which beat sent has arrived."""
    record_heartbeat("beat", host="", pid=None, now=timezone.now())
