"""What the processes of a site take while something runs: processor time, memory, and how long its queues grow."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

EVERY_SECONDS = 0.5
Processes = Callable[[], list[psutil.Process]]


@dataclass
class Window:
    """Figures of one stretch of time: CPU seconds and greatest PSS in bytes by group, greatest queue length."""

    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    longest_queue: int = 0


class Meter:
    """Samples groups of processes; those that end between two samples count up to their last one."""

    def __init__(self, groups: Mapping[str, Processes], queue_length: Callable[[], int]) -> None:
        self._groups, self._queue_length = groups, queue_length
        self._cpu: dict[str, dict[int, float]] = {name: {} for name in groups}

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Give the figures of what runs inside; complete when it has ended."""
        figures, done = Window(), threading.Event()
        self._sample(figures)
        before, started = self._totals(), time.perf_counter()

        def keep_sampling() -> None:
            while not done.wait(EVERY_SECONDS):
                self._sample(figures)

        thread = threading.Thread(target=keep_sampling, daemon=True)
        thread.start()
        try:
            yield figures
        finally:
            done.set()
            thread.join()
            self._sample(figures)
            figures.seconds = time.perf_counter() - started
            figures.cpu_seconds = {name: total - before[name] for name, total in self._totals().items()}

    def _totals(self) -> dict[str, float]:
        return {name: sum(cpu.values()) for name, cpu in self._cpu.items()}

    def _sample(self, figures: Window) -> None:
        figures.longest_queue = max(figures.longest_queue, self._queue_length())
        for name, processes in self._groups.items():
            memory = 0
            for process in processes():
                try:
                    times = process.cpu_times()
                    self._cpu[name][process.pid] = times.user + times.system
                    memory += process.memory_full_info().pss
                except psutil.Error:
                    continue
            figures.peak_bytes[name] = max(figures.peak_bytes.get(name, 0), memory)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all it started that still runs."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def postgres_backends(database: str) -> list[psutil.Process]:
    """Return the server's processes for connections to one database: their titles name it."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "postgres" and f" {database} " in f"{' '.join(process.info['cmdline'] or [])} ":
            found.append(process)
    return found
