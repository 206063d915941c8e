"""Driver: Redis is killed while events are recorded; the running site sequences them all once it is back, unasked.

`BROKER_PORT` is that of a redis-server which this driver starts, kills and starts again, each time empty.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.log_driver import forked, kill, write_events
from tests.system.running_site import set_up_django, site, wait_for

KILLS = 2


def main() -> None:
    set_up_django()
    from audit.kinds import register_kind
    from audit.models import Entry, Event
    from audit.verification import verify_log

    register_kind("test.happened", "Number {number} happened")
    acknowledged = Path(os.environ["QFLARE_DATA_DIR"]) / "acknowledged"
    with redis() as broker, site():
        writer = forked(lambda: write_events(acknowledged))
        for _ in range(KILLS):
            time.sleep(3)
            broker.kill_for(2)
        time.sleep(3)
        kill(writer)
        wait_for(lambda: not Event.objects.filter(sequenced=False).exists(), "the rest to be sequenced", 90)
        entries = Entry.objects.filter(kind="test.happened").select_related("event")
        told = [entry.event.payload["number"] for entry in entries]
    promised = [int(line) for line in acknowledged.read_text().split()]
    assert len(told) == len(set(told)), "an event is in the log twice"
    assert set(promised) <= set(told), "an acknowledged event is lost"
    assert len(told) <= len(promised) + 1, "an event is in the log that nobody recorded"
    verify_log()
    print(f"{len(promised)} events survived {KILLS} kills of the broker")  # noqa: T201


class Broker:
    """A redis-server that keeps nothing on disk."""

    def __init__(self, folder: str) -> None:
        self._command = ["redis-server", "--port", os.environ["BROKER_PORT"], "--save", "", "--dir", folder]
        self._process = self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command

    def kill_for(self, seconds: float) -> None:
        """Kill it, and start it again, empty, after a while."""
        self.stop()
        time.sleep(seconds)
        self._process = self._started()

    def stop(self) -> None:
        """End it as a crash does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextmanager
def redis() -> Iterator[Broker]:
    """Run a broker of our own."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(folder)
        try:
            yield broker
        finally:
            broker.stop()


if __name__ == "__main__":
    sys.exit(main())
