"""Celery entry points of enrolment."""

from celery import shared_task
from django.utils import timezone

from enrollment import services


@shared_task
def delete_expired_attempts() -> None:
    """Delete enrolment exchanges that are over."""
    services.delete_expired_attempts(now=timezone.now())
