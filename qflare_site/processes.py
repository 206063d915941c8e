"""The processes of one host, started and ended together: web, worker, enclave worker, beat."""

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")}
"""FrodoKEM's matrix products are small: several BLAS threads in each process would only fight for the cores."""

FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives each thread an arena of its own, which keeps what that thread once needed: a web process with its eight
threads would grow for hundreds of rounds until each of them has met its largest request."""

STOP_SECONDS = 15
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class StartFailed(RuntimeError):
    """A process ended or the site did not become healthy in time; the message says which log to read."""


def commands(bind: str) -> dict[str, list[str]]:
    """Return the command line of each process by its name; `bind` is the web server's `host:port`."""
    celery = [sys.executable, "-m", "celery", "-A", "qflare_site"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", str(settings.BASE_DIR / "deploy" / "gunicorn.conf.py")]
    return {
        "web": [*gunicorn, "--bind", bind, "qflare_site.wsgi:application"],
        "worker": [*celery, "worker", "-n", "worker@%h", "-Q", "default,audit", "--concurrency", "2", *quiet],
        "enclave": [*celery, "worker", "-n", "enclave@%h", "-Q", "enclave", "--concurrency", "1", *quiet],
        "beat": [*celery, "beat", "--pidfile="],
    }


def free_address(host: str = "127.0.0.1") -> str:
    """Return `host:port` with a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


@dataclass
class Child:
    """One running command, in a session (and so a process group) of its own."""

    name: str
    process: subprocess.Popen[bytes]
    started_at: float
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    died_at: float | None = None

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the command and all that it started, if any of them is left."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass  # nothing is left of the group


@dataclass
class ProcessGroup:
    """All processes of one host on one address.

    Each child gets SIGTERM from the kernel when the thread that started it ends, so `start`, `restart`
    and `tend` belong into a thread that lives as long as the group. `environment` is laid over the
    environment of this process; logs go to one file a process in `log_dir`.
    """

    bind: str
    environment: Mapping[str, str] = field(default_factory=dict)
    log_dir: Path = field(default_factory=lambda: settings.QFLARE_LOG_DIR)
    command_lines: Mapping[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.command_lines = self.command_lines or commands(self.bind)
        self._children: dict[str, Child] = {}

    @property
    def names(self) -> list[str]:
        """The names of the processes: `web`, `worker`, `enclave`, `beat`."""
        return list(self.command_lines)

    @property
    def url(self) -> str:
        """The address of the web server, such as `http://127.0.0.1:8000`."""
        return f"http://{self.bind}"

    def pids(self) -> dict[str, int]:
        """Return the process id of each process that runs."""
        return {name: child.process.pid for name, child in self._children.items() if child.process.poll() is None}

    def start(self, timeout_seconds: float = 180) -> None:
        """Migrate, start everything and wait until `/health` names no failed part.

        Raises `StartFailed` after ending what had started.
        """
        self.migrate()
        _forget_former_processes(settings.QFLARE_METRICS_DIR)
        with ExitStack() as unless_healthy:
            unless_healthy.callback(self.stop)
            for name in self.names:
                self._launch(name)
            self.wait_until_healthy(timeout_seconds)
            unless_healthy.pop_all()

    def migrate(self) -> None:
        """Bring the database to the current schema. Raises `StartFailed`."""
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "migrate", "--noinput"]
        with self._log("migrate").open("ab") as log:
            done = subprocess.run(command, env=self._environment(), stdout=log, stderr=log, check=False)  # noqa: S603
        if done.returncode:
            raise StartFailed(f"The database could not be migrated; see {self._log('migrate')}.")

    def stop(self) -> None:
        """End every process: ask, wait, then kill what is left of each process group."""
        children = list(self._children.values())
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            _end(child, deadline)
        self._children.clear()

    def restart(self, name: str) -> None:
        """Kill one process with all that it started, and start it anew."""
        child = self._children.pop(name, None)
        if child is not None:
            _end(child, time.monotonic())
        self._launch(name)

    def tend(self) -> list[str]:
        """Start again what has died and waited out its backoff; return the names of those started."""
        now = time.monotonic()
        due = [child for child in self._children.values() if _is_due(child, now)]
        for child in due:
            child.signal_group(signal.SIGKILL)  # a dead leader's children must not work beside its successor
            successor = self._launch(child.name)
            successor.backoff_seconds = min(2 * child.backoff_seconds, LONGEST_BACKOFF_SECONDS)
        return [child.name for child in due]

    def wait_until_healthy(self, timeout_seconds: float) -> None:
        """Return when `/health` names no failed part.

        Raises `StartFailed` when a process ends first or time runs out.
        """
        deadline = time.monotonic() + timeout_seconds
        report = "no answer"
        while time.monotonic() < deadline:
            self._refuse_the_dead()
            status, report = self._ask_health()
            if status != "failed":
                return
            time.sleep(0.3)
        raise StartFailed(f"The site did not become healthy in {timeout_seconds:.0f} s ({report}); see {self.log_dir}.")

    def _refuse_the_dead(self) -> None:
        for child in self._children.values():
            if child.process.poll() is not None:
                message = f"{child.name} ended with status {child.process.returncode}; see {self._log(child.name)}."
                raise StartFailed(message)

    def _ask_health(self) -> tuple[str, str]:
        connection = http.client.HTTPConnection(self.bind, timeout=5)
        try:
            connection.request("GET", "/health")
            report = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return "failed", type(error).__name__
        finally:
            connection.close()
        not_ok = [part["detail"] for part in report["parts"].values() if part["status"] != "ok"]
        return report["status"], " ".join(not_ok)

    def _launch(self, name: str) -> Child:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the command lines are our own
                self.command_lines[name],
                env=self._environment(),
                cwd=settings.BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._children[name] = Child(name, process, time.monotonic())
        return self._children[name]

    def _environment(self) -> dict[str, str]:
        return {
            **FEW_ARENAS,
            **os.environ,
            **ONE_THREAD,
            "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
            **self.environment,
        }

    def _log(self, name: str) -> Path:
        self.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.log_dir / f"{name}.log"


def _forget_former_processes(metrics_dir: Path) -> None:
    """Delete the numbers of processes that are no more: each start would leave its files behind for ever."""
    for file in metrics_dir.glob("*.db"):
        if not file.name.endswith(f"_{os.getpid()}.db"):
            file.unlink(missing_ok=True)


def _die_with_parent() -> None:
    """Run in the child before exec: let the kernel end it when its parent is gone (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_due(child: Child, now: float) -> bool:
    """Return whether a child is dead and its backoff is over; a long life makes the backoff short again."""
    if child.process.poll() is None:
        return False
    if child.died_at is None:
        child.died_at = now
        if now - child.started_at > LONGEST_BACKOFF_SECONDS:
            child.backoff_seconds = FIRST_BACKOFF_SECONDS
    return now - child.died_at >= child.backoff_seconds


def _end(child: Child, deadline: float) -> None:
    try:
        child.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # it had its time; the group is killed below
    child.signal_group(signal.SIGKILL)
    child.process.wait()


def tend_until_signalled(group: ProcessGroup) -> Iterator[str]:
    """Tend the group until SIGINT or SIGTERM arrives; yield the name of each process started again."""
    received: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: received.append(n)) for number in _STOPPING}
    try:
        while not received:
            yield from group.tend()
            time.sleep(0.5)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM)
