"""gunicorn: one process of threads per core; the number of processes comes from WEB_CONCURRENCY."""

import gc
import os
from typing import Any

from qflare_site.logs import logging_config

worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = 8
timeout = 60
graceful_timeout = 10
keepalive = 15
# Load the application once and fork: less memory, and a broken setting stops the start instead of every worker.
preload_app = True
control_socket_disable = True
# One JSON object a line, as everywhere else.
logconfig_dict = logging_config(os.environ.get("QFLARE_LOG_LEVEL", "INFO"))
logconfig_dict["loggers"]["gunicorn.error"] = {"handlers": [], "propagate": True, "level": "INFO"}


def when_ready(server: Any) -> None:
    """Before the first worker is forked: what is loaded by now is never looked at by a worker's garbage collector.

    Its first full collection would otherwise write into every object, and so copy the application that
    `preload_app` lets the processes share: some 50 MiB each, after hours without any sign of it.
    """
    gc.collect()
    gc.freeze()
