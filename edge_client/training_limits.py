"""What training code may use in one task, and how it is held to it."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

IDLE_SECONDS = 600
LONGEST_BETWEEN_LOOKS_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What training code may use in one round; None: no limit.

    - memory_bytes: of each of its processes, beyond what the imported code has mapped already.
    - cpu_seconds: of all its threads and processes together.
    - time_seconds: by the clock.
    - idle_seconds: by the clock, without any processor time of any of its processes: it hangs.
    """

    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    time_seconds: int | None = None
    idle_seconds: int | None = IDLE_SECONDS


class LimitWatch:
    """Holds a task to its limits; `cpu_seconds` tells what its processes have used together."""

    def __init__(
        self, limits: Limits, cpu_seconds: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._cpu_seconds, self._clock = limits, cpu_seconds, clock
        self._began_at = self._busy_at = self._looked_at = clock()
        self._used = 0.0

    def exceeded(self) -> str:
        """Return which limit the task is over, as a reason that may leave the device; empty: none."""
        limits, now, used = self._limits, self._clock(), self._cpu_seconds()
        if now - self._looked_at > LONGEST_BETWEEN_LOOKS_SECONDS:  # the machine, or all of the container, was suspended
            self._busy_at += now - self._looked_at
        self._looked_at = now
        if used != self._used:  # less, too: a process that nobody waited for takes its count with it
            self._used, self._busy_at = used, now
        if limits.cpu_seconds is not None and used > limits.cpu_seconds:
            return used_up(limits.cpu_seconds)
        if limits.time_seconds is not None and now - self._began_at > limits.time_seconds:
            return f"took more than its {limits.time_seconds} s"
        if limits.idle_seconds is not None and now - self._busy_at > limits.idle_seconds:
            return f"hung: it used no processor time for {limits.idle_seconds} s (--idle-limit)"
        return ""


def used_up(cpu_seconds: int | None) -> str:
    """Return the reason of a task that is over its processor time."""
    return f"used up its {cpu_seconds} s of processor time"


def limit_this_process(limits: Limits) -> None:
    """Hold this process, and each that it starts, to so much memory beyond what it has mapped and so much time.

    Where a lower limit was inherited, that one holds.
    """
    if limits.memory_bytes is not None:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = mapped + limits.memory_bytes
        _lower(resource.RLIMIT_AS, most, most)
    if limits.cpu_seconds is not None:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        ends = int(used) + limits.cpu_seconds
        _lower(resource.RLIMIT_CPU, ends, ends + 1)


def _lower(what: int, soft: int, hard: int) -> None:
    inherited = resource.getrlimit(what)[1]
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    resource.setrlimit(what, (soft, hard))
