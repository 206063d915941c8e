"""`python -m bench.big_models`: the most memory that each process holds in a round with a large model.

A whole site of the embedded profile, three devices as real clients that download, train, seal and upload, one after the
other. The server's peaks are the kernel's (`VmHWM`), read while the processes live. A device maps the model's files,
whose pages the kernel may take back at any time: its client and its training process are sampled for what they hold
beside them (`RssAnon` and `RssShmem`).
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from edge_client.trainer import Tensors, Trainer, TrainingOutcome

MIB = 1 << 20
DEVICES = 3
ROOT = Path(__file__).resolve().parents[1]
INSIDE = "QFLARE_BENCH_MODEL_MIB"
HELD = ("RssAnon", "RssShmem")
COLUMNS = ("web", "worker", "enclave worker", "sealed process", "client", "its training")


class OneStepTrainer(Trainer):
    """Moves every weight a little; each device by an amount of its own."""

    def initial_model(self) -> Tensors:
        return {"w": np.zeros(int(os.environ[INSIDE]) * MIB // 4, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        moved = np.asarray(model["w"] + np.float32(1 + int(self.options["number"]) / 100))
        return TrainingOutcome({"w": moved}, 10)

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"size": float(model["w"].size)}


class Peaks:
    """The most memory of each kind of process, sampled while they live."""

    def __init__(self) -> None:
        self.kib: dict[str, int] = {}
        self._watched: dict[int, str] = {}
        self._devices: set[int] = set()
        self._over = threading.Event()

    def watch(self, name: str, pid: int) -> None:
        """Watch a process of the server under a name; several may share it."""
        self._watched[pid] = name

    def watch_device(self, pid: int) -> None:
        """Watch a device's client, and what it starts as its training process."""
        self._devices.add(pid)

    @contextmanager
    def sampled(self) -> Iterator["Peaks"]:
        """Sample until the end, sealed processes too wherever they appear below this one."""
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                if child.pid not in self._watched and _is_sealed(child):
                    self.watch("sealed process", child.pid)
            for pid, name in list(self._watched.items()):
                self._note(name, _memory_kib(pid, ("VmHWM",)))
            for pid in list(self._devices):
                self._note("client", _memory_kib(pid, HELD))
                self._note("its training", sum(_memory_kib(child, HELD) for child in _descendants(pid)))

    def _note(self, name: str, kib: int) -> None:
        self.kib[name] = max(self.kib.get(name, 0), kib)


def _is_sealed(process: psutil.Process) -> bool:
    try:
        return "enclave.core" in process.cmdline()
    except psutil.Error:
        return False


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _memory_kib(pid: int, fields: Iterable[str]) -> int:
    """Return the sum of these fields of a process's status in KiB, 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.split(":")[0] in fields)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size on a stage of its own and print the table."""
    if INSIDE in os.environ:
        _measure(int(os.environ[INSIDE]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--mib", type=int, nargs="+", default=[64, 256, 1024], help="model sizes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    print("| model, MiB | seconds | " + " | ".join(COLUMNS) + " |")  # noqa: T201
    print("|---:" * (len(COLUMNS) + 2) + "|")  # noqa: T201
    for mib in options.mib:
        _on_a_stage(mib)


def _on_a_stage(mib: int) -> None:
    from qflare_site.demo.settings import DemoSettings
    from qflare_site.demo.stage import demo_stage

    with demo_stage(DemoSettings(devices=10), keep=False) as stage:
        environment = stage.environment | {
            "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
            "QFLARE_RATE_UPLOAD": "100000/m",
            INSIDE: str(mib),
        }
        command = [sys.executable, "-m", "bench.big_models"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)  # noqa: S603 - this module


def _measure(mib: int) -> None:
    import django

    django.setup()
    from django.utils import timezone

    from qflare_site.processes import ProcessGroup, free_address
    from training.models import Round, RoundState
    from training.services.rounds import open_round

    group, peaks = ProcessGroup(bind=free_address()), Peaks()
    group.start()
    try:
        federation = _federation(mib)
        names = {"web": "web", "worker": "worker", "enclave": "enclave worker"}
        for process in (psutil.Process(group.pids()[name]) for name in names):
            name = next(key for key, pid in group.pids().items() if pid == process.pid)
            for one in (process, *process.children(recursive=True)):
                peaks.watch(names[name], one.pid)
        with peaks.sampled():
            clients = [_Client(group.url, number) for number in range(DEVICES)]
            started = time.monotonic()
            round_ = open_round(federation.id, actor="operator:bench", now=timezone.now())
            rounds = Round.objects.filter(id=round_.id)
            _wait(rounds.filter(state=RoundState.OPEN).exists)
            for client in clients:
                client.work(peaks)
            _wait(rounds.filter(state__in=(RoundState.COMPLETED, RoundState.FAILED)).exists)
            seconds = time.monotonic() - started
    finally:
        group.stop()
    ended = rounds.get()
    assert ended.state == RoundState.COMPLETED, ended.end_reason  # noqa: S101 - nothing was measured otherwise
    print(f"| {mib} | {seconds:.0f} | " + " | ".join(f"{peaks.kib[name] // 1024}" for name in COLUMNS) + " |")  # noqa: T201


def _federation(mib: int) -> object:
    from datetime import timedelta

    from django.utils import timezone

    from qflare_protocol.aggregation_policy import AggregationPolicy
    from qflare_protocol.tensors import encode_tensors
    from training.services.federations import create_federation

    return create_federation(
        "big",
        initial_model=encode_tensors(OneStepTrainer({}, {}).initial_model()),
        trainer="bench.big_models:OneStepTrainer",
        policy=AggregationPolicy(maximum_update_bytes=(mib + 16) * MIB),
        actor="operator:bench",
        now=timezone.now(),
        round_time=timedelta(minutes=30),
    )


class _Client:
    """The real command-line client, enrolled."""

    def __init__(self, url: str, number: int) -> None:
        from django.conf import settings
        from django.utils import timezone

        from enrollment.services import issue_token

        self._number, home = number, Path(settings.QFLARE_DATA_DIR) / f"device-{number}"
        self._command = [
            *(sys.executable, "-m", "edge_client", "--home", str(home), "--key-file", f"{home}.key"),
        ]
        token = issue_token(actor="operator:bench", now=timezone.now(), device_name=home.name).text
        enrol = ["enroll", "--server", url, "--token", token, "--name", home.name]
        subprocess.run([*self._command, *enrol], check=True, capture_output=True)  # noqa: S603 - our own client

    def work(self, peaks: Peaks) -> None:
        """Work one round and be watched."""
        work = ["train-once", "--trainer", "bench.big_models:OneStepTrainer", "--option", f"number={self._number}"]
        with subprocess.Popen([*self._command, *work], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
            peaks.watch_device(process.pid)
            status = process.wait()
        assert status == 0, f"the client ended with status {status}"  # noqa: S101 - nothing was measured otherwise


def _wait(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the round did not go on")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
