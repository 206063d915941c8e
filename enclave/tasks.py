"""Celery entry points of the enclave host (queue `enclave`)."""

from celery import shared_task
from django.utils import timezone

from enclave import services


@shared_task
def destroy_retired_keys() -> None:
    """Destroy what the enclave host still keeps of rounds that are over."""
    services.destroy_retired_keys(now=timezone.now())
