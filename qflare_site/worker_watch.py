"""End a worker that takes no messages any more, so that whoever runs it starts it again.

A worker takes one message at a time, and waits for its acknowledgement before it asks Redis for the next. Where the
connection breaks under that very acknowledgement, Celery 5.7 logs "Couldn't ack", the place stays taken, nothing is
asked for, and so nobody notices that the connection is gone: the process lives, its heartbeat goes on, and its queue
grows (seen about once in thirty kills of Redis). A worker that has nothing to do while the same message waits is such
a one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state
from django.conf import settings
from redis.exceptions import RedisError

from qflare_site.broker_queues import next_in_redis

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 2
PATIENCE_SECONDS = 10


@dataclass
class Deafness:
    """For how many seconds a worker that had nothing to do has left the same message waiting, by queue."""

    seconds: dict[str, float] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)

    def after(self, waiting: Mapping[str, bytes], *, busy: bool) -> float:
        """Return the longest at another look, `INTERVAL_SECONDS` after the last; `waiting` is the next of each queue.

        A queue that moves on is heard, though it be of messages that have expired, which no counter of Celery shows.
        """
        same = {queue for queue, message in waiting.items() if not busy and self.seen.get(queue) == message}
        self.seconds = {queue: self.seconds.get(queue, 0.0) + INTERVAL_SECONDS for queue in same}
        self.seen = dict(waiting)
        return max(self.seconds.values(), default=0.0)


class ConsumptionStep(bootsteps.StartStopStep):
    """A worker bootstep that looks every few seconds whether a message waits that this idle worker does not take."""

    requires = {"celery.worker.components:Timer"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._timer_entry: Any = None
        self._deafness = Deafness()

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
            waiting = {queue: message for queue, message in next_in_redis().items() if queue in queues}
        except RedisError:
            waiting = {}  # nobody can take a message now
        seconds = self._deafness.after(waiting, busy=bool(state.reserved_requests))
        if seconds >= PATIENCE_SECONDS:
            log.critical("worker.takes_no_messages", worker=worker.hostname, queues=sorted(waiting), seconds=seconds)
            state.should_stop = os.EX_SOFTWARE
