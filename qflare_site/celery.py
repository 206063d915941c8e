"""The Celery application. Broker messages are hints: each task takes ids, and the truth is the database."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from kombu.transport import TRANSPORT_ALIASES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qflare_site.settings")

TRANSPORT_ALIASES["atomic-filesystem"] = "qflare_site.filesystem_transport:Transport"

app = Celery("qflare")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add("qflare_site.worker_heartbeat:HeartbeatStep")


@setup_logging.connect
def keep_the_logging_of_the_site(**_kwargs: Any) -> None:
    """Stop Celery from configuring logging: a receiver here means that Django's `LOGGING` stays."""
