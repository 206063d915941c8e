"""Training code that goes wrong in each way it can, for the process it runs in."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.trainer import EvaluationOutcome, Tensors, TrainingOutcome
from tests.edge.trainers import SmallTrainer

IMPORTS = Path(os.environ.get("COUNTED_IMPORTS", os.devnull))
with IMPORTS.open("a") as counted:
    counted.write("imported\n")
if "STARTED_AT_IMPORT" in os.environ:
    Path(os.environ["STARTED_AT_IMPORT"]).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
if "READS_AT_IMPORT" in os.environ:
    with Path(os.environ["READS_AT_IMPORT"]).open("wb") as read:
        subprocess.Popen(["cat"], stdout=read)


OUT_OF_FORM: dict[str, Any] = {
    "good": np.float32(0.5), "nan": float("nan"), "large": 2e12, "n" * 65: 1.0, "a\nline": 1.0, "none": None,
    "several": np.zeros(3), **{f"m{number}": 1.0 for number in range(40)},
}  # fmt: skip
DAEMON = """
import subprocess
print(subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=-3, stderr=-3).pid)
"""
HEADLESS = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
EXIT = {"aarch64": 93}.get(platform.machine(), 60)  # of this thread alone
ctypes.CDLL(None).syscall(EXIT, 0)
"""
ORPHAN_THAT_BURNS = """
import os, time
if not os.fork():
    while time.process_time() < 0.3: pass
"""


def burn(seconds: float) -> None:
    """Use so much processor time."""
    while time.process_time() < seconds:
        pass


class Troubled(SmallTrainer):
    """Does what the parameter `trouble` says before it trains."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        getattr(self, str(self.parameters.get("trouble", "none")))()
        outcome = super().train(model, round_number)
        return replace(outcome, metrics=OUT_OF_FORM) if self.parameters.get("trouble") == "misreports" else outcome

    def evaluate_here(self, model: Tensors) -> EvaluationOutcome | None:
        if "hangs" in self.options:
            time.sleep(600)
        if "samples" not in self.options:
            return None
        return EvaluationOutcome(int(self.options["samples"]), {"mean": np.float32(model["w"].mean())})

    def none(self) -> None:
        pass

    def raises(self) -> None:
        raise KeyError("Ada Lovelace")

    def takes_memory(self) -> None:
        self.kept = np.ones(1 << 28)

    def takes_time(self) -> None:
        while True:
            pass

    def takes_time_in_others(self) -> None:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(burn, [3.0, 3.0])

    def takes_time_in_orphans(self) -> None:
        for _ in range(20):
            subprocess.run([sys.executable, "-c", ORPHAN_THAT_BURNS], check=True)
            time.sleep(0.2)

    def leaves_others(self) -> None:
        """Start a child and a daemon, which has another parent and a session of its own."""
        child = subprocess.Popen(["sleep", "600"])
        daemon = subprocess.run([sys.executable, "-c", DAEMON], check=True, capture_output=True, text=True)
        Path(str(self.parameters["pid_file"])).write_text(f"{child.pid} {daemon.stdout}")

    def leaves_others_and_sleeps(self) -> None:
        self.leaves_others()
        time.sleep(600)

    def sleeps_in_forks(self) -> None:
        workers = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        Path(str(self.parameters["pid_file"])).write_text(" ".join(str(worker.pid) for worker in workers))
        workers[0].join()

    def reads_its_input(self) -> None:
        """Read what the process, and what it starts, could read: the commands of the device are not among it."""
        if os.read(0, 1) or subprocess.run(["cat"], capture_output=True, check=True, timeout=60).stdout:
            raise RuntimeError("there was something to read")
        if "pid_file" in self.parameters:
            self.sleeps()

    def dies_while_it_speaks(self) -> None:
        """Leave half an answer, and lines that are none, in the pipe of the answers."""
        watch = self._watch
        assert watch is not None
        pipes = watch.__self__._pipes  # type: ignore[attr-defined]
        os.write(pipes.answers, b'\n[]\n{"sort": 1}\n{"kind": "trai')
        os.kill(os.getpid(), signal.SIGKILL)

    def leaves_a_headless_one(self) -> None:
        """Start a process whose first thread has ended while another lives on: it is shown as a zombie."""
        headless = subprocess.Popen([sys.executable, "-c", HEADLESS])
        deadline = time.monotonic() + 30
        while Path(f"/proc/{headless.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            if time.monotonic() > deadline or headless.poll() is not None:
                raise RuntimeError("it is no zombie with threads")
            time.sleep(0.02)
        Path(str(self.parameters["pid_file"])).write_text(str(headless.pid))

    def misreports(self) -> None:
        for _ in range(3):
            self.report(float("nan"), loss=2e12, **OUT_OF_FORM)

    def hangs(self) -> None:
        time.sleep(600)

    def sleeps(self) -> None:
        Path(str(self.parameters["pid_file"])).write_text(str(os.getpid()))
        for second in range(600):
            self.report(second / 600, loss=1.0 / (second + 1), step=second)
            time.sleep(0.05)

    def crashes(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def leaves(self) -> None:
        os._exit(0)

    def prints(self) -> None:
        print('{"kind": "trained", "sample_count": 1, "metrics": {}}')  # noqa: T201
        subprocess.run([sys.executable, "-c", "print('not an answer')"], check=True)

    def leaks(self) -> None:
        type(self).leaked = np.ones(1 << 20)  # type: ignore[attr-defined]
        if hasattr(type(self), "before"):
            raise RuntimeError("the last round's state is still there")
        type(self).before = True  # type: ignore[attr-defined]
