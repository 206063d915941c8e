"""The processes that training code starts: what they use together, and the end of them all (Linux).

Whoever begins a tree is the reaper of what is orphaned in it, so that no daemon escapes by giving up its parent.
"""

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

END_SECONDS = 3.0
POLL_SECONDS = 0.01
EMPTY_SCANS = 2  # what is started while /proc is read may be missed once
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it; `cpu_seconds` are its own and those of the children it waited for."""

    pid: int
    parent: int
    state: str
    started_ticks: int
    cpu_seconds: float
    threads: int

    @property
    def identity(self) -> tuple[int, int]:
        """What tells it from a later process with the same number."""
        return self.pid, self.started_ticks

    @property
    def lives(self) -> bool:
        """Whether anything of it runs: a zombie may be a first thread that ended before the others."""
        return self.state not in "ZX" or self.threads > 1


class ProcessTree:
    """What is started below this process from now on; what runs there already is left alone.

    `lead` names the child that the task runs in. This process must be a subreaper.
    """

    def __init__(self) -> None:
        self._others = {one.identity for one in descendants(os.getpid())}
        self._reaped_before = _reaped_seconds()
        self._leader: int | None = None

    def lead(self, pid: int) -> None:
        """Take a child as the one whose end `end` returns."""
        self._leader = pid

    def cpu_seconds(self) -> float:
        """Return the processor time that the tree has used, of ended processes too."""
        left = self._reap()  # first: what ends in between is then counted as it was seen, and nothing twice
        return _reaped_seconds() - self._reaped_before + sum(one.cpu_seconds for one in left)

    def end(self) -> int:
        """Kill and reap all of the tree; return the leader's exit code, negative for a signal.

        What the kernel holds for longer than `END_SECONDS` is logged and left; a leader's code is then SIGKILL's.
        """
        ends_at = time.monotonic() + END_SECONDS
        status = self._end_leader(ends_at)
        empty_scans = 0
        while empty_scans < EMPTY_SCANS:
            empty_scans = 0 if self._kill() else empty_scans + 1
            if not empty_scans and time.monotonic() > ends_at:
                log.error("training_processes_left", pids=[one.pid for one in self._members()])
                break
            time.sleep(POLL_SECONDS)
        return status

    def _end_leader(self, ends_at: float) -> int:
        leader, self._leader = self._leader, None
        if leader is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)  # while its number is taken, so that it is no other group's
        kill(leader)  # it may have had no time to begin its group
        while True:
            ended, status = os.waitpid(leader, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > ends_at:
                log.error("training_processes_left", pids=[leader])
                return -signal.SIGKILL
            time.sleep(POLL_SECONDS)

    def _kill(self) -> bool:
        """Reap what has ended and kill the rest; return whether anything lived.

        Zombies are killed too: where the first thread of a process has ended, others of it may live.
        """
        left = self._reap()
        for one in left:
            kill(one.pid)
        return any(one.lives for one in left)

    def _members(self) -> Iterator[Process]:
        return (one for one in descendants(os.getpid()) if one.identity not in self._others)

    def _reap(self) -> list[Process]:
        """Reap the orphans that ended; return the others as they were before.

        The leader is waited for at the end, and others by whoever started them.
        """
        return [one for one in self._members() if not self._is_reaped(one)]

    def _is_reaped(self, one: Process) -> bool:
        if one.state != "Z" or one.parent != os.getpid() or one.pid == self._leader:
            return False
        try:
            return os.waitpid(one.pid, os.WNOHANG)[0] == one.pid
        except ChildProcessError:  # somebody else has
            return True


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it. Raises `OSError`."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, and end where it has ended already. Raises `OSError`.

    `parent` is its number, asked before the fork.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        kill(os.getpid())


def descendants(root: int) -> list[Process]:
    """Return the processes below one, zombies too, as they are now."""
    return _below([root], _all_processes())


def _below(roots: Iterable[int], everything: Iterable[Process]) -> list[Process]:
    by_parent: dict[int, list[Process]] = {}
    for one in everything:
        by_parent.setdefault(one.parent, []).append(one)
    found, parents = list[Process](), [*roots]
    while parents:
        children = by_parent.pop(parents.pop(), [])
        found += children
        parents += [child.pid for child in children]
    return found


def kill(pid: int) -> None:
    """Kill a process; one that has gone, or that is another user's by now, is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def kill_seen(seen: Iterable[Process]) -> None:
    """Kill what was seen before, where it lives on, and what is below it now; return once nothing of it lives.

    Who they are is told by their identity, for their parent may have ended. What no kill ends is logged.
    """
    known = {one.identity for one in seen}
    ends_at = time.monotonic() + END_SECONDS
    while known and (living := [one for one in _with_descendants(known) if one.lives]):
        known |= {one.identity for one in living}
        for one in living:
            kill(one.pid)
        if time.monotonic() > ends_at:
            log.error("training_processes_left", pids=[one.pid for one in living])
            return
        time.sleep(POLL_SECONDS)


def _with_descendants(known: Set[tuple[int, int]]) -> list[Process]:
    everything = list(_all_processes())
    roots = [one for one in everything if one.identity in known]
    return list({one.pid: one for one in [*roots, *_below([root.pid for root in roots], everything)]}.values())


def _all_processes() -> Iterator[Process]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                yield _parsed(int(entry.name), Path(entry.path, "stat").read_bytes())


def _parsed(pid: int, stat: bytes) -> Process:
    """Read a line of proc(5): a name in brackets, which may hold anything, then numbers."""
    fields = stat.rpartition(b")")[2].split()
    ticks = sum(int(fields[place]) for place in (11, 12, 13, 14))  # utime, stime, cutime, cstime
    return Process(pid, int(fields[1]), fields[0].decode(), int(fields[19]), ticks / _TICKS, int(fields[17]))


def _reaped_seconds() -> float:
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
