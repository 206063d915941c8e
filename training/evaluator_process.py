"""The process that an operator's evaluator runs in: it stays for the next version, and forks for each.

The evaluator may import torch, which takes seconds; `edge_client.evaluation_server` does so once. One process is
kept, for the code asked for last; it ends by itself when nobody asks, and with the worker that started it.
"""

import atexit
import contextlib
import fcntl
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from qflare_protocol.errors import Refusal

LONGEST_COMPLAINT = 400
LIFE_SECONDS = 600.0
ENDING_SECONDS = 5.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A fork has none of the threads that its parent's import may have started, and would wait for them for ever."""


@dataclass(frozen=True)
class _Evaluator:
    """A running evaluator of the code `spec`, started by the process `owner`."""

    spec: str
    owner: int
    process: "subprocess.Popen[bytes]"
    complaints: IO[bytes]
    started_at: float

    def serves(self, spec: str) -> bool:
        """Whether it can be asked about models of that code; what was changed is taken up within `LIFE_SECONDS`."""
        young = time.monotonic() - self.started_at < LIFE_SECONDS
        return young and self.owner == os.getpid() and self.spec == spec and self.process.poll() is None


_LOCK = threading.Lock()
_kept: _Evaluator | None = None
_host_lock: IO[bytes] | None = None


def may_evaluate_here() -> bool:
    """Say whether this process is the one of its host that keeps an evaluator: it becomes so where none is.

    An imported torch takes 150 MB, so the processes of a worker do not keep one each. The others leave a
    version to the next tick, until that one is asked.
    """
    global _host_lock
    with _LOCK:
        if _host_lock is not None and _host_lock.name != str(_lock_path()):
            _host_lock.close()
            _host_lock = None
        if _host_lock is not None:
            return True
        opened = _lock_path().open("wb")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            opened.close()
            return False
        except OSError:  # a file system without locks: then each process keeps its own
            pass
        _host_lock = opened
        return True


def _lock_path() -> Path:
    return Path(settings.QFLARE_DATA_DIR) / "evaluator.lock"


def evaluate_in_process(
    spec: str, parameters: Mapping[str, Any], model: Path, *, timeout_seconds: float, keep: bool = True
) -> str:
    """Return what the evaluator prints of a model; its folder takes the output.

    With `keep` it stays for the next model. Raises `Refusal("internal-error")` where it fails or takes longer, and
    then its process goes.
    """
    output, complaints = model.with_name("output"), model.with_name("complaints")
    complaints.touch()
    task = {"model": str(model), "parameters": dict(parameters), "output": str(output), "complaints": str(complaints)}
    line = json.dumps(task).encode() + b"\n"
    status = _asked_of_kept(spec, line, timeout_seconds) if keep else _asked_of_another(spec, line, timeout_seconds)
    if status != 0:
        said = complaints.read_text(errors="replace").strip()[-LONGEST_COMPLAINT:]
        raise Refusal("internal-error", f"The evaluator failed: {said or f'it ended with status {status}'}")
    return output.read_text()


class _Gone(Refusal):
    """The evaluator has ended without an answer."""


def _asked_of_kept(spec: str, line: bytes, timeout_seconds: float) -> int:
    """Ask the kept evaluator and return its fork's exit status. Raises `Refusal("internal-error")`."""
    global _kept
    with _LOCK:
        if _kept is not None and _kept.serves(spec):
            with contextlib.suppress(_Gone):  # of idleness, at this moment: another takes its place
                return _ask_or_forget(_kept, line, timeout_seconds)
        if _kept is not None and _kept.owner == os.getpid():
            _forget(_kept)
        _kept = _start(spec)
        return _ask_or_forget(_kept, line, timeout_seconds)


def _ask_or_forget(evaluator: _Evaluator, line: bytes, timeout_seconds: float) -> int:
    """Ask, and keep the evaluator only where it answers well."""
    with contextlib.ExitStack() as unless_good:
        unless_good.callback(_forget, evaluator)
        status = _ask(evaluator, line, timeout_seconds)
        if status == 0:
            unless_good.pop_all()
        return status


def _asked_of_another(spec: str, line: bytes, timeout_seconds: float) -> int:
    """Ask an evaluator that is started for this and ends with it. Raises `Refusal("internal-error")`."""
    evaluator = _start(spec)
    try:
        return _ask(evaluator, line, timeout_seconds)
    finally:
        _end(evaluator)


def _ask(evaluator: _Evaluator, line: bytes, timeout_seconds: float) -> int:
    """Send a task and return its fork's exit status. Raises `_Gone`, and `Refusal("internal-error")` after the time."""
    if evaluator.process.stdin is None or evaluator.process.stdout is None:
        raise Refusal("internal-error", "The evaluator has no channel.")
    try:
        evaluator.process.stdin.write(line)
        evaluator.process.stdin.flush()
    except BrokenPipeError:
        raise _gone(evaluator) from None
    with selectors.DefaultSelector() as events:
        events.register(evaluator.process.stdout, selectors.EVENT_READ)
        if not events.select(timeout_seconds):
            raise Refusal("internal-error", f"The evaluator took longer than {timeout_seconds:.0f} s.")
    answer = evaluator.process.stdout.readline()
    if not answer:
        raise _gone(evaluator)
    return int(answer)


def _gone(evaluator: _Evaluator) -> _Gone:
    """Return what to say of an evaluator that has ended without an answer."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        evaluator.process.wait(ENDING_SECONDS)
    evaluator.complaints.seek(0)
    said = evaluator.complaints.read().decode(errors="replace").strip()[-LONGEST_COMPLAINT:]
    return _Gone("internal-error", f"The evaluator failed: {said or 'it ended without an answer'}")


def _start(spec: str) -> _Evaluator:
    complaints = tempfile.TemporaryFile()
    process = subprocess.Popen(  # noqa: S603 - the command is ours; the trainer name is an argument
        [sys.executable, "-m", "edge_client.evaluation_server", spec],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        cwd=settings.BASE_DIR,
        env=os.environ | ONE_THREAD,
    )
    return _Evaluator(spec, os.getpid(), process, complaints, time.monotonic())


def _forget(evaluator: _Evaluator) -> None:
    """End an evaluator, and keep it no longer where it is the kept one."""
    global _kept
    if _kept is evaluator:
        _kept = None
    _end(evaluator)


def _end(evaluator: _Evaluator) -> None:
    """End the process and wait for it."""
    evaluator.process.kill()  # a fork that still works ends with it
    evaluator.process.wait()
    for pipe in (evaluator.process.stdin, evaluator.process.stdout, evaluator.complaints):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def close_evaluator() -> None:
    """End the kept evaluator, if this process has one, and leave evaluating to others of this host."""
    global _host_lock
    with _LOCK:
        if _host_lock is not None:
            _host_lock.close()
            _host_lock = None
        if _kept is not None and _kept.owner == os.getpid():
            _forget(_kept)


atexit.register(close_evaluator)
