"""The processes and ports of a platform that is compared: both other platforms are many processes on one host."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Sequence

import psutil

from bench.fleet.meter import family

STOP_SECONDS = 20
LISTENS_WITHIN_SECONDS = 120


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and whatever they have started."""
    children = [one for process in processes for one in family(process.pid)]
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def free_port() -> int:
    """Return a port of this host that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, what: str) -> None:
    """Return as soon as somebody listens. Raises `SystemExit` where nobody does in two minutes."""
    deadline = time.monotonic() + LISTENS_WITHIN_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"{what} does not listen")
