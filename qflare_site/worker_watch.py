"""End a worker that takes no messages any more, so that whoever runs it starts it again.

A worker takes one message at a time, and waits for its acknowledgement before it asks Redis for the next. Where the
connection breaks under that very acknowledgement, Celery 5.7 logs "Couldn't ack", the place stays taken, nothing is
asked for, and so nobody notices that the connection is gone: the process lives, its heartbeat goes on, and its queue
grows (seen about once in thirty kills of Redis). A worker that has nothing to do while messages wait is such a one.
"""

import os
from dataclasses import dataclass
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state
from django.conf import settings
from redis.exceptions import RedisError

from qflare_site.broker_queues import waiting_messages

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 2
PATIENCE_SECONDS = 10


@dataclass
class Idleness:
    """How many seconds a worker has had nothing to do while messages waited for it, and what it had taken by then."""

    seconds: float = 0.0
    taken: int = -1

    def after(self, *, waiting: int, busy: bool, taken: int) -> float:
        """Return the seconds at another look, `INTERVAL_SECONDS` after the last."""
        idle = waiting > 0 and not busy and taken == self.taken
        self.seconds, self.taken = (self.seconds + INTERVAL_SECONDS if idle else 0.0), taken
        return self.seconds


class ConsumptionStep(bootsteps.StartStopStep):
    """A worker bootstep that looks every few seconds whether messages wait which this idle worker does not take."""

    requires = {"celery.worker.components:Timer"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._timer_entry: Any = None
        self._idleness = Idleness()

    def include_if(self, worker: Any) -> bool:
        """Only a broker behind a connection can lose it."""
        return not settings.EMBEDDED

    def start(self, worker: Any) -> None:
        """Begin to look."""
        self._timer_entry = worker.timer.call_repeatedly(INTERVAL_SECONDS, self.look, (worker,))

    def stop(self, worker: Any) -> None:
        """Look no more."""
        if self._timer_entry is not None:
            self._timer_entry.cancel()

    def look(self, worker: Any) -> None:
        """Let a worker end, with a status that says so, once it has left messages waiting for too long."""
        queues = set(worker.app.amqp.queues.consume_from)
        try:
            waiting = sum(count for queue, count in waiting_messages().items() if queue in queues)
        except RedisError:
            waiting = 0  # nobody can take a message now
        taken = sum(state.total_count.values())
        seconds = self._idleness.after(waiting=waiting, busy=bool(state.reserved_requests), taken=taken)
        if seconds >= PATIENCE_SECONDS:
            log.critical("worker.takes_no_messages", worker=worker.hostname, waiting=waiting, seconds=seconds)
            state.should_stop = os.EX_SOFTWARE
