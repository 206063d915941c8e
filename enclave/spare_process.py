"""Processes that wait, warmed up, to become the sealed process of the next request: they save a round their imports.

Each serves one request of one round, as one that is started for it does. A worker that keeps some starts another
when it takes one. One that is gone costs nothing but the time: the courier starts a process then.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from enclave.core.waiting import MAX_PASSED_DESCRIPTORS, give_task

ROOT = Path(__file__).resolve().parents[1]
KEPT = 2
"""Where rounds follow one another, the next is prepared right after the one before is aggregated."""
CHANNEL_OPTION = "--channel-fd"
PROGRAM = [sys.executable, "-P", "-s", "-B", "-m", "enclave.core"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def environment() -> dict[str, str]:
    """Return a sealed process's environment: no secret of ours, no Django, and BLAS on one thread."""
    return {"PYTHONPATH": str(ROOT), "PATH": os.defpath, "LC_ALL": "C.UTF-8", **ONE_THREAD}


log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Running:
    """A started process and our end of its channel."""

    process: "subprocess.Popen[bytes]"
    socket: socket.socket

    def end(self) -> None:
        """End it and wait for it."""
        self.socket.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


def start(command: Sequence[str], channel: tuple[socket.socket, socket.socket], descriptors: Sequence[int]) -> Running:
    """Start a sealed process over a pair of sockets, ours and its own, with these open files."""
    ours, theirs = channel
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - a fixed command of our own
            command,
            env=environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), *descriptors),
        )
        return Running(process, ours)


class SpareProcesses:
    """The waiting processes of this worker; none before `keep`."""

    def __init__(self, count: int = KEPT) -> None:
        self._count, self._owner = count, 0
        self._waiting: list[Running] = []

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that wait, the first to be taken first."""
        return [running.process.pid for running in self._waiting]

    def keep(self) -> None:
        """Have processes wait from now on; where none can be started now, fewer wait."""
        try:
            self._start_missing()
        except OSError as error:  # what spares time must not cost a round
            log.warning("spare_process_not_started", error=type(error).__name__)

    def _start_missing(self) -> None:
        if self._owner != os.getpid():  # a forked worker has its parent's processes no more than its keys
            self._owner, self._waiting = os.getpid(), []
        while len(self._waiting) < self._count:
            ours, theirs = socket.socketpair()
            with ExitStack() as unless_started:
                for end in (ours, theirs):
                    unless_started.callback(end.close)
                command = [*PROGRAM, "wait", CHANNEL_OPTION, str(theirs.fileno())]
                self._waiting.append(start(command, (ours, theirs), ()))
                unless_started.pop_all()

    def drop(self) -> None:
        """Let nothing wait any more."""
        waiting, self._waiting = self._waiting, []
        if self._owner == os.getpid():
            for running in waiting:
                running.end()
        self._owner = 0

    def take(self, arguments: Sequence[str], descriptors: Sequence[int]) -> Running | None:
        """Give the process that waits longest a task and return it; None where there is none that can take it.

        `arguments` are the command line of a process that is started for the task, but for its channel.
        """
        if not self._waiting or self._owner != os.getpid():
            return None
        taken = self._waiting.pop(0)
        try:
            if len(descriptors) > MAX_PASSED_DESCRIPTORS or taken.process.poll() is not None:
                raise OSError("It has died, or cannot be given so many files.")
            give_task(taken.socket, arguments, descriptors)
        except OSError:
            taken.end()
            return None
        finally:
            self.keep()
        return taken


SPARE = SpareProcesses()
