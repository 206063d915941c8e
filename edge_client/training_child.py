"""The process that training code runs in: `python -m edge_client.training_child SPEC OPTIONS` (a JSON map).

It imports the code once, and forks for each task, so that a round costs no second import and a crash, a
limit or a leak ends with its fork, and so does every process that the task has started. Tasks come as lines
of JSON on standard input, {"stop": true} ends the one at hand, the end of the input ends everything; answers
go to standard output. Whatever the code prints goes to standard error.
"""

import contextlib
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_client.process_tree import ProcessTree, become_subreaper, die_with_parent
from edge_client.storage import DISK_IS_FULL, disk_is_full
from edge_client.tensor_files import map_tensor_file, write_tensor_file
from edge_client.trainer import Progress, Trainer, find_trainer
from edge_client.training_limits import Limits, LimitWatch, limit_this_process
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import MAX_METRIC_NAME, MAX_METRICS
from qflare_protocol.progress import LARGEST_LOSS

READ_BYTES = 1 << 16
LOOK_SECONDS = 1.0
NAMES_SAID = 10


@dataclass(frozen=True)
class Pipes:
    """The descriptors of a training process for tasks and answers; no program that it starts inherits them."""

    tasks: int
    answers: int

    @classmethod
    def take(cls) -> "Pipes":
        """Move them away from standard input, which is empty from now on, and output, which goes to the error's."""
        pipes = cls(os.dup(0), os.dup(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return pipes

    def say(self, answer: Mapping[str, Any]) -> None:
        """Write an answer as a line. Raises `BrokenPipeError` where nobody listens."""
        self._write(_line(answer))

    def say_after_broken_line(self, answer: Mapping[str, Any]) -> None:
        """Write an answer after the line that a killed process may have left half written, or after an empty one."""
        self._write(b"\n" + _line(answer))

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self.answers, line) :]


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


class Child:
    """Serves tasks until its input ends; `pipes` are where they come from and where its answers go to."""

    def __init__(self, trainer_class: type[Trainer], options: Mapping[str, str], pipes: "Pipes") -> None:
        self._trainer_class, self._options, self._pipes = trainer_class, options, pipes
        self._input = bytearray()

    def say(self, **answer: Any) -> None:
        """Answer with one line: an outcome and progress come from the fork, all else from its parent."""
        self._pipes.say(answer)

    def serve(self) -> None:
        """Run every task that comes, one after the other."""
        while (line := self._next_line()) is not None:
            task = json.loads(line)
            if "stop" not in task:  # one that comes after its task has ended has nothing to stop
                self._run(task)

    def _next_line(self) -> bytes | None:
        while b"\n" not in self._input:
            piece = os.read(self._pipes.tasks, READ_BYTES)
            if not piece:
                return None
            self._input += piece
        line, _, rest = self._input.partition(b"\n")
        self._input = bytearray(rest)
        return bytes(line)

    def _run(self, task: dict[str, Any]) -> None:
        tree, limits = ProcessTree(), Limits(**task["limits"])
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            self._work(task, limits, parent)
        tree.lead(pid)
        fork = os.pidfd_open(pid)
        try:
            over = self._wait(fork, LimitWatch(limits, tree.cpu_seconds))
        finally:
            os.close(fork)
        self._pipes.say_after_broken_line({"kind": "ended", "status": tree.end(), "over": over})

    def _wait(self, fork: int, watch: LimitWatch) -> str:
        """Wait for the end of a fork; end one that is to stop, or is over a limit, and return which.

        Where nobody listens any more, it is to stop.
        """
        with selectors.DefaultSelector() as events:
            events.register(fork, selectors.EVENT_READ)
            events.register(self._pipes.tasks, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in events.select(LOOK_SECONDS)}
                if fork in ready:
                    return ""
                if self._pipes.tasks in ready and self._is_to_stop():
                    signal.pidfd_send_signal(fork, signal.SIGKILL)
                    return ""
                if over := watch.exceeded():
                    signal.pidfd_send_signal(fork, signal.SIGKILL)
                    return over

    def _is_to_stop(self) -> bool:
        """Read what came; return whether it, or the end of the input, ends the task."""
        piece = os.read(self._pipes.tasks, READ_BYTES)
        self._input += piece
        if piece and b'"stop"' not in self._input:
            return False
        self._input.clear()
        return True

    def _work(self, task: dict[str, Any], limits: Limits, parent: int) -> None:
        """Do the task in the fork and end it, whatever happens."""
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._pipes.tasks)  # or what the task starts could read the next
            os.setsid()
            die_with_parent(parent)
            limit_this_process(limits)
            self.say(**self._outcome_of(task))
            status = 0
        except BaseException as error:  # noqa: BLE001 - it ends this process, and its reason is told
            traceback.print_exc()
            with contextlib.suppress(BaseException):
                self.say(kind="failed", reason=place_of(error))
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _outcome_of(self, task: dict[str, Any]) -> dict[str, Any]:
        trainer = self._trainer_class(task["parameters"], self._options)
        base = map_tensor_file(Path(task["base"]))
        if task["do"] == "evaluate":
            trainer.version = task["version"]
            found = trainer.evaluate_here(base)
            metrics, dropped = reportable({} if found is None else found.metrics)
            return {
                "kind": "evaluated",
                "outcome": found and [int(found.sample_count), metrics],
                "dropped": dropped,
            }
        trainer.watch(self._tell)
        outcome = trainer.train(base, task["round_number"])
        write_tensor_file(Path(task["trained"]), outcome.model)
        metrics, dropped = reportable(outcome.metrics)
        return {
            "kind": "trained",
            "sample_count": int(outcome.sample_count),
            "metrics": metrics,
            "dropped": dropped,
        }

    def _tell(self, progress: Progress) -> None:
        loss, dropped_loss = reportable({} if progress.loss is None else {"loss": progress.loss})
        metrics, dropped = reportable(progress.metrics)
        self.say(
            kind="progress",
            fraction=progress.fraction,
            loss=loss.get("loss"),
            metrics=metrics,
            dropped=(dropped_loss + dropped)[:NAMES_SAID],
        )


def place_of(error: BaseException) -> str:
    """Return what may leave the device of an exception: its type and where it was raised, never its words.

    A message may quote the data: `KeyError: 'Ada Lovelace'`.
    """
    if isinstance(error, Refusal):
        return f"{error.code}: {error.detail}"[:200]
    if isinstance(error, OSError) and disk_is_full(error):
        return DISK_IS_FULL
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"[:200]


def reportable(metrics: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the metrics that a report may have, as plain floats, and ten names at most of those out of form.

    Training code gives NumPy's and torch's numbers. What is dropped here costs neither a report nor the update.
    """
    taken, dropped = dict[str, float](), list[str]()
    for name, value in metrics.items():
        number = _number(value)
        if number is None or len(taken) == MAX_METRICS or not _is_a_name(str(name)):
            dropped.append(str(name)[:MAX_METRIC_NAME])
        else:
            taken[str(name)] = number
    return taken, dropped[:NAMES_SAID]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's, of many values
        return None
    return number if abs(number) <= LARGEST_LOSS else None


def _is_a_name(name: str) -> bool:
    return 1 <= len(name) <= MAX_METRIC_NAME and name.isprintable()


def main() -> None:
    """Import the code, say whether that worked, and serve."""
    pipes = Pipes.take()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is the parent's to act on
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # so is this; the end of the input ends this process
    become_subreaper()
    everything = ProcessTree()
    try:
        with contextlib.suppress(BrokenPipeError):  # whoever listened is gone
            _serve(sys.argv[1], json.loads(sys.argv[2]), pipes)
    finally:
        everything.end()  # what the import has started, too


def _serve(spec: str, options: Mapping[str, str], pipes: Pipes) -> None:
    try:
        child = Child(find_trainer(spec), options, pipes)
    except Refusal as refusal:
        pipes.say({"kind": "refused", "code": refusal.code, "detail": refusal.detail})
        return
    child.say(kind="ready")
    child.serve()


if __name__ == "__main__":
    main()
