"""Driver: a worker whose event loop asks Redis for no messages any more ends by itself, with a status that says so.

`BROKER_PORT` is that of a redis-server which this driver starts.
"""

import os
import signal
import sys
import time
from typing import Any

from celery import bootsteps

from tests.system.broker_driver import redis
from tests.system.log_driver import forked
from tests.system.running_site import set_up_django, wait_for

PATIENCE_SECONDS = 3


def main() -> None:
    set_up_django()
    from django.core.management import call_command
    from django.db import connections

    from qflare_site.broker_queues import waiting_messages
    from training.tasks import tick

    call_command("migrate", verbosity=0)
    connections.close_all()
    with redis():
        worker = forked(work_deafly)
        time.sleep(2)
        tick.delay()
        ended: list[tuple[int, int]] = []
        wait_for(lambda: ended.append(os.waitpid(worker, os.WNOHANG)) or ended[-1][0], "the worker to end", 60)
        status = os.waitstatus_to_exitcode(ended[-1][1])
        assert status == os.EX_SOFTWARE, f"it ended with {status}"
        assert waiting_messages()["default"] == 1, "the message is gone"
    print("a deaf worker ended by itself")  # noqa: T201


class Deafness(bootsteps.StartStopStep):
    """Takes from a worker's channel what makes it ask for messages, as a broken connection may."""

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def start(self, consumer: Any) -> None:
        consumer.task_consumer.channel.qos.can_consume = lambda: False


def work_deafly() -> None:
    """Run `celery worker` in this process."""
    from celery.__main__ import main as celery

    from qflare_site import worker_watch
    from qflare_site.celery import app

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    worker_watch.INTERVAL_SECONDS, worker_watch.PATIENCE_SECONDS = 1, PATIENCE_SECONDS
    app.steps["consumer"].add(Deafness)
    sys.argv = ["celery", "-A", "qflare_site", "worker", "-n", "worker@%h", "-Q", "default", "--concurrency", "1"]
    try:
        celery()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))


if __name__ == "__main__":
    main()
