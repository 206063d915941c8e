"""The numbers of a host's processes over HTTP, from a Celery worker: for hosts and containers that run no web."""

from typing import Any

import structlog
from celery import bootsteps
from django.conf import settings
from prometheus_client import start_http_server

from qflare_site.metrics.processes import registry

log = structlog.get_logger(__name__)


class MetricsStep(bootsteps.StartStopStep):
    """A worker bootstep that listens on `QFLARE_METRICS_PORT`, unless that is 0."""

    # The children are forked by then, so that they do not hold the port.
    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.enabled = settings.QFLARE_METRICS_PORT > 0
        self._server: Any = None

    def start(self, worker: Any) -> None:
        """Begin to answer; where another worker of this host has the port, it gives this one's numbers too."""
        try:
            self._server, _ = start_http_server(settings.QFLARE_METRICS_PORT, registry=registry())
        except OSError as error:
            log.warning("metrics.port_not_taken", port=settings.QFLARE_METRICS_PORT, reason=error.strerror)

    def stop(self, worker: Any) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
