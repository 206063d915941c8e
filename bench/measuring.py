"""How time is taken: CPU time of one thread on one core, cases in turn, medians.

Cases run interleaved, so that a machine that gets slower or faster in between does so for a figure and
its reference alike. A case that is over in microseconds runs several times in a row for each sample.
"""

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar

Clock = Callable[[], float]
LEAST_SAMPLE_SECONDS = 2e-3
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Stopwatch:
    """Collects the seconds that named actions take, by a clock of the caller's choice."""

    def __init__(self, clock: Clock = time.thread_time) -> None:
        self._clock = clock
        self._samples: dict[str, list[float]] = {}

    def run(
        self, name: str, action: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        """Do it, note how long it took, and return what it returned."""
        started = self._clock()
        result = action(*args, **kwargs)
        self._samples.setdefault(name, []).append(self._clock() - started)
        return result

    def note(self, name: str, seconds: float) -> None:
        """Add a sample that was taken in another way."""
        self._samples.setdefault(name, []).append(seconds)

    def spent(self, name: str) -> float:
        """Return the seconds that all runs of an action took together."""
        return sum(self._samples.get(name, ()))

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each action."""
        return {name: statistics.median(samples) for name, samples in self._samples.items()}

    def percentiles(self, percent: float) -> dict[str, float]:
        """Return the seconds that so many of a hundred runs of each action stayed within, by nearest rank."""
        return {
            name: sorted(samples)[max(0, math.ceil(percent / 100 * len(samples)) - 1)]
            for name, samples in self._samples.items()
        }


def interleaved_medians(
    cases: Mapping[str, Callable[[], object]], *, repetitions: int, seconds_each: float = 3.0
) -> dict[str, float]:
    """Return the median seconds of each case over rounds in which each is sampled once.

    A case that has taken `seconds_each` in all sits out the rounds that remain.
    """
    watch, times = Stopwatch(), {name: _times_per_sample(case) for name, case in cases.items()}
    with steady():
        for _ in range(repetitions):
            for name, case in cases.items():
                if watch.spent(name) < seconds_each:
                    watch.run(name, _repeat, case, times[name])
    return {name: seconds / times[name] for name, seconds in watch.medians().items()}


def _times_per_sample(case: Callable[[], object]) -> int:
    """Return how often a case has to run to take 2 ms; its first run, which warms it up, does not count."""
    case()
    watch = Stopwatch()
    watch.run("once", case)
    return max(1, math.ceil(LEAST_SAMPLE_SECONDS / max(watch.spent("once"), 1e-6)))


def _repeat(case: Callable[[], object], times: int) -> None:
    for _ in range(times):
        case()


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """Stay on one core, where the system has that; the garbage collector runs as it does in a server."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
