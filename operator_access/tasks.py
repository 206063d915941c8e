"""Celery entry points of access."""

from celery import shared_task
from django.utils import timezone

from operator_access.services import approvals


@shared_task
def expire_approvals() -> None:
    """Close the requests that found no second person in time."""
    approvals.expire_approvals(now=timezone.now())
