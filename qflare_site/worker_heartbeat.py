"""The sign of life of a Celery worker, given by its main process even while its children are busy."""

import os
from typing import Any

from celery import bootsteps
from django.db import connection
from django.utils import timezone

INTERVAL_SECONDS = 5


class HeartbeatStep(bootsteps.StartStopStep):
    """A worker bootstep that records the worker under the first part of its name (`worker@host`)."""

    requires = {"celery.worker.components:Timer"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._timer_entry: Any = None

    def start(self, worker: Any) -> None:
        """Begin to record, at once and then every few seconds."""
        beat(worker.hostname)
        self._timer_entry = worker.timer.call_repeatedly(INTERVAL_SECONDS, beat, (worker.hostname,))

    def stop(self, worker: Any) -> None:
        """Stop recording."""
        if self._timer_entry is not None:
            self._timer_entry.cancel()


def beat(hostname: str) -> None:
    """Record one sign of life of the worker that Celery calls `hostname`."""
    from qflare_site.services import record_heartbeat  # models can only be imported once Django is set up

    process, _, host = hostname.partition("@")
    record_heartbeat(process, host=host, pid=os.getpid(), now=timezone.now())
    connection.close()  # the main process forks: it must not hold a connection that a child would inherit
