"""The Celery application. Broker messages are hints: each task takes ids, and the truth is the database."""

import gc
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_before_create_process
from kombu.transport import TRANSPORT_ALIASES

from qflare_site import task_log as task_log  # its receivers are the point

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qflare_site.settings")

TRANSPORT_ALIASES["atomic-filesystem"] = "qflare_site.filesystem_transport:Transport"

app = Celery("qflare")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add("qflare_site.worker_heartbeat:HeartbeatStep")
app.steps["worker"].add("qflare_site.worker_watch:ConsumptionStep")
app.steps["worker"].add("qflare_site.metrics.worker_endpoint:MetricsStep")


@setup_logging.connect
def keep_the_logging_of_the_site(**_kwargs: Any) -> None:
    """Stop Celery from configuring logging: a receiver here means that Django's `LOGGING` stays."""


@worker_before_create_process.connect
def share_what_is_loaded(**_kwargs: Any) -> None:
    """Keep a child's garbage collector from what its parent had loaded.

    The first full collection would otherwise write into every object, and so copy the pages that
    parent and children share: some 50 MiB a child, at a time that nothing explains.
    """
    gc.collect()
    gc.freeze()
