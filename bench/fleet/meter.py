"""What the processes of a site take while something runs: processor time, memory, and how long its queues grow."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

EVERY_SECONDS = 2.0  # looking at every process takes a tenth of a second of a core, which the site is then without
OFTEN_SECONDS = 0.5
"""Where memory of short-lived processes counts: a look at 30 of 100 MB each takes 25 ms, 5 % of a core."""
Processes = Callable[[], list[psutil.Process]]


@dataclass
class Window:
    """Figures of one stretch of time: CPU seconds and greatest PSS in bytes by group, greatest queue length."""

    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    longest_queue: int = 0


@dataclass(frozen=True)
class Taken:
    """Processor seconds of one process and of all it has waited for, and who started it."""

    parent: int
    seconds: float


class Meter:
    """Samples groups of processes, by default every two seconds.

    One that ends between two samples counts in its parent where that is in the group, which the kernel adds up when
    it is waited for; else up to its last sample.
    """

    def __init__(
        self,
        groups: Mapping[str, Processes],
        queue_length: Callable[[], int],
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._groups, self._queue_length, self._every_seconds = groups, queue_length, every_seconds
        self._cpu: dict[str, dict[tuple[int, float], Taken]] = {name: {} for name in groups}

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Give the figures of what runs inside; complete when it has ended."""
        figures, done = Window(), threading.Event()
        self._sample(figures)
        before, started = self._totals(), time.perf_counter()

        def keep_sampling() -> None:
            while not done.wait(self._every_seconds):
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
        return {name: sum(one.seconds for one in cpu.values()) for name, cpu in self._cpu.items()}

    def _sample(self, figures: Window) -> None:
        figures.longest_queue = max(figures.longest_queue, self._queue_length())
        for name, processes in self._groups.items():
            memory, alive = 0, {}
            for process in processes():
                try:
                    # Ids of processes are used again: the time of its start tells one from another.
                    alive[process.pid, process.create_time()] = _taken(process)
                    memory += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self._cpu[name] = with_those_that_ended(self._cpu[name], alive)
            figures.peak_bytes[name] = max(figures.peak_bytes.get(name, 0), memory)


def _taken(process: psutil.Process) -> Taken:
    with process.oneshot():
        times = process.cpu_times()
        return Taken(process.ppid(), times.user + times.system + times.children_user + times.children_system)


def with_those_that_ended(
    before: Mapping[tuple[int, float], Taken], alive: Mapping[tuple[int, float], Taken]
) -> dict[tuple[int, float], Taken]:
    """Return who is alive and who ended without a parent in the group that has its time by now."""
    group = {pid for pid, _ in (*before, *alive)}
    ended = {key: taken for key, taken in before.items() if key not in alive and taken.parent not in group}
    return ended | dict(alive)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all it started that still runs."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def postgres_backends(database: str) -> dict[int, psutil.Process]:
    """Return the server's processes for connections over TCP to one database, by their client's port.

    Their titles name both: `postgres: user database 127.0.0.1(54321) idle`.
    """
    found = {}
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "postgres":
            title = " ".join(process.info["cmdline"] or [])
            port = re.search(rf" {re.escape(database)} [^ ]*\((\d+)\)", title)
            if port:
                found[int(port[1])] = process
    return found


def backends_of(clients: list[psutil.Process], database: str) -> list[psutil.Process]:
    """Return the server's processes that serve these clients' connections to a database."""
    backends = postgres_backends(database)
    return [backends[port] for port in _local_ports(clients) if port in backends]


def backends_of_others(clients: list[psutil.Process], database: str) -> list[psutil.Process]:
    """Return the server's processes that serve anybody else's connections to it: workers, beat, this process."""
    own = _local_ports(clients)
    return [backend for port, backend in postgres_backends(database).items() if port not in own]


def postgres_background() -> list[psutil.Process]:
    """Return the server's processes that serve no connection, such as the checkpointer: those of all its databases."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if process.info["name"] == "postgres" and re.search(r"(checkpointer|writer|autovacuum|walwriter)", title):
            found.append(process)
    return found


def _local_ports(processes: list[psutil.Process]) -> set[int]:
    ports = set()
    for process in processes:
        try:
            ports |= {connection.laddr.port for connection in process.net_connections("tcp") if connection.laddr}
        except psutil.Error:
            continue
    return ports
