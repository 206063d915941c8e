"""Training code in a process of its own, under limits: its crash is a reason and never a hang of the device."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog

from edge_client.process_tree import Process, descendants, kill, kill_seen
from edge_client.trainer import EvaluationOutcome, Progress, TrainingFailed
from edge_client.training import Trained, TrainingTask, Watch
from edge_client.training_folder import TrainingFolder
from edge_client.training_limits import Limits, used_up
from qflare_protocol.errors import Refusal

log = structlog.get_logger(__name__)

WATCH_SECONDS = 1.0
STOP_SECONDS = 8.0
EVALUATION_SECONDS = 3600
READ_BYTES = 1 << 16


class TrainingProcess:
    """Runs the training code named `module:Class` in a child that lives as long as this object is open."""

    def __init__(self, spec: str, options: Mapping[str, str], limits: Limits | None = None) -> None:
        self._spec, self._options = spec, dict(options)
        self._limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._answers = bytearray()
        self._warned = self._warned_of_line = False
        self._seen: list[Process] = []
        self._look_at = 0.0

    def open(self) -> None:
        """Start the child and let it import the code.

        Raises `Refusal("not-found")` for code that is not there, `TrainingFailed` where the import itself crashes.
        """
        command = [sys.executable, "-P", "-m", "edge_client.training_child", self._spec, json.dumps(self._options)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path)])}
        self._answers.clear()
        self._child = subprocess.Popen(  # noqa: S603 - our own module
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        answer = self._next_answer(lambda: None)
        if answer.get("kind") == "refused":
            self.close()
            raise Refusal(answer["code"], answer["detail"])
        self._look()

    def train(self, task: TrainingTask, folder: TrainingFolder, watch: Watch) -> Trained:
        """Train from the folder's base model and leave the trained one there.

        `watch` is told of the last progress at least every second. Raises `TrainingFailed` with a reason
        that may leave the device, and what `watch` raises, after the training was stopped.
        """
        self._ask(task, "train", folder)
        progress = Progress()

        def still_wanted() -> None:
            watch(progress)

        while True:
            answer = self._next_answer(still_wanted)
            self._warn_of_dropped(answer)
            if answer["kind"] == "progress":
                progress = Progress(answer["fraction"], answer["loss"], answer["metrics"])
                self._stopping_what_is_unwanted(still_wanted)
            elif answer["kind"] == "trained":
                self._await_end()
                return Trained(answer["sample_count"], answer["metrics"])
            else:
                self._fail(answer)

    def evaluate(self, task: TrainingTask, folder: TrainingFolder) -> EvaluationOutcome | None:
        """Evaluate the folder's base model on this device's own data. Raises `TrainingFailed`."""
        ends_at = time.monotonic() + EVALUATION_SECONDS

        def still_in_time() -> None:
            if time.monotonic() > ends_at:
                raise TrainingFailed(f"the evaluation took more than {EVALUATION_SECONDS} s")

        self._ask(task, "evaluate", folder)
        answer = self._next_answer(still_in_time)
        self._warn_of_dropped(answer)
        if answer["kind"] != "evaluated":
            self._fail(answer)
        self._await_end()
        outcome = answer["outcome"]
        return outcome and EvaluationOutcome(outcome[0], outcome[1])

    def close(self) -> None:
        """End the child; a task at hand ends with it."""
        self._end_child()

    def _ask(self, task: TrainingTask, what: str, folder: TrainingFolder) -> None:
        """Give the child a task; one that has died since the last task is replaced, and costs no round."""
        self._warned = False
        message = {
            "do": what,
            "parameters": dict(task.parameters),
            "round_number": task.round_number,
            "version": task.version,
            "base": str(folder.base.absolute()),
            "trained": str(folder.trained.absolute()),
            "limits": asdict(self._limits),
        }
        self._open_unless_alive()
        try:
            self._tell(message)
        except TrainingFailed:  # it died just now, and has taken no task
            self._open_unless_alive()
            self._tell(message)

    def _open_unless_alive(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._gone()
        if self._child is None:
            self.open()

    def _warn_of_dropped(self, answer: dict[str, Any]) -> None:
        """Say once a task which metrics are not reported: operators miss them, and nothing else does."""
        if answer.get("dropped") and not self._warned:
            self._warned = True
            log.warning("metrics_out_of_form_dropped", names=answer["dropped"])

    def _tell(self, message: dict[str, Any]) -> None:
        if self._child is None or self._child.stdin is None:
            raise TrainingFailed("the training process is gone")
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise self._gone() from error

    def _next_answer(self, every_second: Any) -> dict[str, Any]:
        """Return the next answer of the child. Raises `TrainingFailed` where it has died."""
        while (answer := self._answer_in(self._next_line(every_second))) is None:
            pass
        return answer

    def _answer_in(self, line: bytes) -> dict[str, Any] | None:
        """Return what a line says; None for an empty one, and for what was half written when its process was killed."""
        if not line:
            return None
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and "kind" in answer:
            return answer
        if not self._warned_of_line:
            self._warned_of_line = True
            log.warning("training_process_answer_broken", length_bytes=len(line))
        return None

    def _next_line(self, every_second: Any) -> bytes:
        if self._child is None or self._child.stdout is None:
            raise TrainingFailed("the training process is gone")
        with selectors.DefaultSelector() as events:
            events.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._answers:
                self._look_each_second()
                if not events.select(WATCH_SECONDS):
                    if self._child.poll() is not None:  # others may hold its end of the pipe
                        raise self._gone()
                    self._stopping_what_is_unwanted(every_second)
                    continue
                piece = os.read(self._child.stdout.fileno(), READ_BYTES)
                if not piece and self._answers:
                    self._answers += b"\n"
                elif not piece:
                    raise self._gone()
                self._answers += piece
        line, _, rest = bytes(self._answers).partition(b"\n")
        self._answers = bytearray(rest)
        return line

    def _stopping_what_is_unwanted(self, watch: Any) -> None:
        with contextlib.ExitStack() as unless_wanted:
            unless_wanted.callback(self._stop)
            watch()
            unless_wanted.pop_all()

    def _stop(self) -> None:
        """Stop the task at hand; with a child that has died it has stopped already."""
        with contextlib.suppress(TrainingFailed):
            self._tell({"stop": True})
            self._await_end()

    def _look_each_second(self) -> None:
        if time.monotonic() >= self._look_at:
            self._look()

    def _look(self) -> None:
        """Remember what runs below the child; once it has died, end that: nobody else knows it any more."""
        if self._child is None:
            return
        found = descendants(self._child.pid)
        if self._child.poll() is None:
            self._seen = found
        else:
            kill_seen(self._seen)
        self._look_at = time.monotonic() + WATCH_SECONDS

    def _await_end(self) -> dict[str, Any]:
        while (answer := self._next_answer(lambda: None))["kind"] != "ended":
            pass
        return answer

    def _fail(self, answer: dict[str, Any]) -> None:
        """Raise `TrainingFailed` for a task that ended without an outcome."""
        if answer["kind"] != "ended":
            self._await_end()
            raise TrainingFailed(answer["reason"])
        raise TrainingFailed(answer["over"] or self._reason_of(answer["status"]))

    def _reason_of(self, status: int) -> str:
        if status == -signal.SIGXCPU:
            return used_up(self._limits.cpu_seconds)
        if status == -signal.SIGKILL:
            return "was killed, perhaps for the memory it took (SIGKILL)"
        if status < 0:
            return f"crashed ({signal.Signals(-status).name})"
        return f"ended with status {status} and no outcome"

    def _gone(self) -> TrainingFailed:
        """Return what to say of a child that has died; the next task starts another."""
        status = self._end_child()
        log.warning("training_process_died", status=status)
        return TrainingFailed(f"the training process ended with status {status}")

    def _end_child(self) -> int | None:
        """End the child and what was seen below it; return its status, None where there was none."""
        child, self._child = self._child, None
        seen, self._seen = self._seen, []
        if child is None:
            return None
        status = _ended(child)
        kill_seen(seen)
        return status


def _ended(child: subprocess.Popen[bytes]) -> int:
    """Let a child end at the end of its input, or kill it; return its status."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        return child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for one in descendants(child.pid):
            kill(one.pid)
        child.kill()
    try:
        return child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:  # in the kernel, which lets nobody kill it
        log.error("training_processes_left", pids=[child.pid])
        return -signal.SIGKILL
