"""QFLARE: all processes of a site on the embedded profile and one `qflare-edge` per device."""

import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compare.counting_proxy import CountingProxy
from bench.compare.task import Figures, Task
from bench.fleet.meter import OFTEN_SECONDS, Meter, family

if TYPE_CHECKING:
    from training.models import Federation

OPERATOR = "operator:bench"
FEDERATION = "compared"
LIMIT_SECONDS = 900


def run(task: Task) -> Figures:
    """Set a site up in this process's Django, train, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="qflare-compare-") as folder:
        os.environ |= _environment(Path(folder), task)
        own = time.thread_time()  # of this thread: proxy and meter, which every platform has, run in others
        import django

        django.setup()
        from qflare_site.processes import ProcessGroup, free_address

        started = time.perf_counter()
        group = ProcessGroup(free_address(), log_dir=Path(folder) / "log")
        group.start()
        devices: list[subprocess.Popen[bytes]] = []
        host, port = group.bind.split(":")
        meter = Meter(
            {
                "all": lambda: [
                    process
                    for pid in [*group.pids().values(), *(device.pid for device in devices)]
                    for process in family(pid)
                ],
                "one": lambda: family(devices[0].pid) if devices else [],
            },
            lambda: 0,
            OFTEN_SECONDS,
        )
        try:
            with CountingProxy((host, int(port))) as proxy, meter.window() as window:
                federation = _federation(task, Path(folder))
                devices += _start_devices(task, f"http://127.0.0.1:{proxy.port}", Path(folder))
                figures = _trained(task, federation)
        finally:
            for device in devices:
                device.terminate()
            for device in devices:
                device.wait(30)
            group.stop()
    figures.cpu_seconds = time.thread_time() - own
    figures.total_seconds = time.perf_counter() - started
    figures.peak_bytes = window.peak_bytes["all"]
    figures.peak_device_bytes = window.peak_bytes["one"]
    figures.wire_bytes = proxy.total_bytes
    return figures


def _environment(folder: Path, task: Task) -> dict[str, str]:
    rates = ("ENROLMENT", "CHALLENGE", "SUBMISSION", "DOWNLOAD", "WORK")
    return {
        "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
        "QFLARE_DATA_DIR": str(folder / "site"),
        "SECRET_KEY": secrets.token_urlsafe(50),
        "QFLARE_INSECURE_HTTP": "1",
        "QFLARE_ACKNOWLEDGE_FILE_KEK": "1",
        "DATABASE_URL": "",
        "REDIS_URL": "",
        **{f"QFLARE_RATE_{name}": f"{600 * task.devices}/m" for name in rates},
    }


def _start_devices(task: Task, server: str, folder: Path) -> list[subprocess.Popen[bytes]]:
    from django.utils import timezone

    from enrollment.services import issue_token

    started = []
    for number in range(task.devices):
        home = folder / f"device-{number}"
        home.mkdir()
        (home / "token").write_text(issue_token(actor=OPERATOR, now=timezone.now(), device_name=f"d-{number}").text)
        command = [
            *(sys.executable, "-m", "edge_client", "--home", str(home), "--key-file", str(home / "key"), "run"),
            *(
                "--server",
                server,
                "--name",
                f"d-{number}",
                "--token-file",
                str(home / "token"),
                "--trainer",
                task.trainer,
            ),
            *("--option", f"shard={number}"),
        ]
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with (home / "log").open("wb") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))  # noqa: S603
    return started


def _federation(task: Task, folder: Path) -> "Federation":
    """Create the federation, whose rounds open whenever all devices are idle, so at the end of the one before."""
    from django.utils import timezone

    from qflare_protocol.aggregation_policy import AggregationPolicy
    from training.services.federations import create_federation
    from training.services.schedules import schedule_rounds_when_idle

    model = folder / "initial"
    command = [sys.executable, "-m", "edge_client", "initial-model", "--trainer", task.trainer, "--output", str(model)]
    subprocess.run([*command, "--parameters", json.dumps(task.parameters)], check=True)  # noqa: S603
    federation = create_federation(
        FEDERATION,
        initial_model=model.read_bytes(),
        trainer=task.trainer,
        evaluator="" if task.wide else task.trainer,
        policy=AggregationPolicy(maximum_sample_count=10_000),
        trainer_parameters=task.parameters,
        round_time=timedelta(seconds=600 if task.wide else 60),
        planned_rounds=task.rounds,
        actor=OPERATOR,
        now=timezone.now(),
    )
    schedule_rounds_when_idle(federation, idle_devices=task.devices, actor=OPERATOR)
    return federation


def _trained(task: Task, federation: "Federation") -> Figures:
    """Wait for the last round and return the figures of all."""
    versions = federation.versions.filter(number__gt=0)
    done = versions if task.wide else versions.filter(evaluated_at__isnull=False)
    _wait(lambda: done.count() == task.rounds, "the training")
    figures = Figures("QFLARE", version("qflare"))
    rounds = list(federation.rounds.filter(state="completed").select_related("resulting_version").order_by("number"))
    starts = [round_.created_at for round_ in rounds] + [rounds[-1].finished_at]
    figures.round_seconds = [(end - start).total_seconds() for start, end in itertools.pairwise(starts)]
    figures.accuracies = [round_.resulting_version.metrics.get("accuracy", 0.0) for round_ in rounds]
    return figures


def _wait(done: Any, what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not end in {LIMIT_SECONDS} s")
        time.sleep(0.2)
