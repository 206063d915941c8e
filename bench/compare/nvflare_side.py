"""NVIDIA FLARE in production mode: provisioned kits, a server and a client per device over mutual TLS, one job.

It is installed into an interpreter of its own; this project does not depend on it.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.compare.counting_proxy import CountingProxy
from bench.compare.platform_processes import await_port, free_port, stop
from bench.compare.task import Figures, Task
from bench.fleet.meter import OFTEN_SECONDS, Meter, family
from edge_client.trainer import Tensors, Trainer, load_trainer

APP = Path(__file__).parent / "nvflare_app"
ROOT = Path(__file__).resolve().parents[2]
ADMINISTRATOR = "admin@bench.org"
LIMIT_SECONDS = 1800
LOOK_SECONDS = 0.05

PROJECT = """api_version: 3
name: compare
description: the comparison of QFLARE
participants:
  - {{name: localhost, type: server, org: bench, fed_learn_port: {port}, admin_port: {admin_port}}}
{clients}
  - {{name: {administrator}, type: admin, org: bench, role: project_admin}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: [master_template.yml]}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def install(folder: Path) -> Path | None:
    """Install NVIDIA FLARE from PyPI and return its interpreter; None where that fails, and why on standard error."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "nvflare"]
    done = subprocess.run(command, stdout=sys.stderr, check=False)  # noqa: S603 - a fixed command
    return python if done.returncode == 0 else None


def run(task: Task, python: Path) -> Figures:
    """Provision, start everything, submit one job, wait for its end, and return the figures."""
    with TemporaryDirectory(prefix="nvflare-compare-") as name, contextlib.ExitStack() as stack:
        folder, environment = Path(name), _environment(python)
        started = time.perf_counter()
        kits = _provision(folder, task, environment)
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(stop, processes)
        port = _port_of(kits)
        processes.append(_start(kits / "localhost", environment, folder))
        await_port(port, "NVIDIA FLARE's server")
        proxy = stack.enter_context(CountingProxy(("localhost", port)))
        meter = Meter(
            {
                "all": lambda: [one for process in processes for one in family(process.pid)],
                "one": lambda: family(processes[1].pid) if len(processes) > 1 else [],
            },
            lambda: 0,
            OFTEN_SECONDS,
        )
        with meter.window() as window:
            for number in range(task.devices):
                _direct(kits / f"site-{number}", proxy.port)
                processes.append(_start(kits / f"site-{number}", environment, folder))
            figures = _trained(folder, kits, task, environment)
        figures.total_seconds = time.perf_counter() - started
        figures.peak_bytes, figures.peak_device_bytes = window.peak_bytes["all"], window.peak_bytes["one"]
        figures.wire_bytes = proxy.total_bytes
    return figures


def _environment(python: Path) -> dict[str, str]:
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment.pop("PYTHONPATH", None)
    # Not resolved: an environment's interpreter is a link, and its folder has the tools.
    return environment | {"PATH": f"{python.absolute().parent}{os.pathsep}{os.environ['PATH']}"}


def _provision(folder: Path, task: Task, environment: dict[str, str]) -> Path:
    """Make keys, certificates and startup kits; return their folder."""
    clients = "\n".join(f"  - {{name: site-{number}, type: client, org: bench}}" for number in range(task.devices))
    text = PROJECT.format(port=free_port(), admin_port=free_port(), clients=clients, administrator=ADMINISTRATOR)
    (folder / "project.yml").write_text(text)
    command = ["nvflare", "provision", "-p", "project.yml", "-w", "kits", "--force"]
    subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=True)  # noqa: S603
    return folder / "kits" / "compare" / "prod_00"


def _port_of(kits: Path) -> int:
    server = json.loads((kits / "localhost" / "startup" / "fed_server.json").read_text())
    return int(server["servers"][0]["service"]["target"].rpartition(":")[2])


def _direct(kit: Path, port: int) -> None:
    """Let a client reach its server by the proxy that counts; TLS and identities stay as they are."""
    file = kit / "startup" / "fed_client.json"
    told = json.loads(file.read_text())
    told["servers"][0]["service"]["target"] = f"localhost:{port}"
    file.write_text(json.dumps(told))


def _start(kit: Path, environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{kit.name}.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - the kit's own script
            ["bash", str(kit / "startup" / "sub_start.sh"), "--once"],  # noqa: S607
            env=environment,
            stdout=log,
            stderr=log,
        )


def _trained(folder: Path, kits: Path, task: Task, environment: dict[str, str]) -> Figures:
    trainer = load_trainer(task.trainer, task.parameters, {})
    initial = trainer.initial_model()
    np.save(folder / "model.npy", np.concatenate([value.ravel() for value in initial.values()]))
    libraries = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    told = {"trainer": task.trainer, "parameters": task.parameters, "paths": libraries}
    (folder / "task.json").write_text(json.dumps(told))
    with ModelWatch(kits / "localhost", folder / "models") as watch:
        printed = _submit(folder, kits, task, environment)
    version, submitted = printed[0].split()[1], float(printed[1].split()[1])
    if printed[-1] != "FINISHED:COMPLETED" or len(watch.moments) < task.rounds:
        raise SystemExit(f"NVIDIA FLARE's job ended as {printed[-1]} with {len(watch.moments)} models.")
    moments = [submitted, *watch.moments[-task.rounds :]]
    figures = Figures("NVIDIA FLARE", version)
    figures.round_seconds = [after - before for before, after in zip(moments, moments[1:], strict=False)]
    models = [] if task.wide else watch.copies[-task.rounds :]
    figures.accuracies = [_accuracy(trainer, initial, path) for path in models]
    return figures


def _submit(folder: Path, kits: Path, task: Task, environment: dict[str, str]) -> list[str]:
    """Submit the job and wait for its end; return what `submit.py` prints of itself."""
    command = [
        *("python", str(APP / "submit.py"), str(kits / ADMINISTRATOR), str(folder / "task.json")),
        *(str(folder / "model.npy"), str(task.devices), str(task.rounds)),
    ]
    done = subprocess.run(  # noqa: S603 - our own script
        command, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=LIMIT_SECONDS, cwd=folder
    )
    if done.returncode:
        logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log"))[:2])
        raise SystemExit(f"NVIDIA FLARE's job could not be run:\n{logs}")
    return [line for line in done.stdout.splitlines() if line.startswith(("version", "submitted", "FINISHED"))]


class ModelWatch:
    """Looks for each new model that the server saves: `moments` of their saving, and `copies` of them."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server, self._folder, self._over = server, folder, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.moments: list[float] = []
        self.copies: list[Path] = []

    def __enter__(self) -> "ModelWatch":
        self._folder.mkdir()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):
                for saved in self._server.glob("*/**/server.npy"):
                    self._take(saved)

    def _take(self, saved: Path) -> None:
        moment = saved.stat().st_mtime
        if self.moments and moment <= self.moments[-1]:
            return
        time.sleep(LOOK_SECONDS)
        if saved.stat().st_mtime == moment:  # written to its end
            copy = self._folder / f"{len(self.copies)}.npy"
            copy.write_bytes(saved.read_bytes())
            self.moments.append(moment)
            self.copies.append(copy)


def _accuracy(trainer: Trainer, initial: Tensors, path: Path) -> float:
    ends = np.cumsum([value.size for value in initial.values()])
    parts = np.split(np.load(path), ends[:-1])
    model = {name: part.reshape(initial[name].shape) for name, part in zip(initial, parts, strict=True)}
    return trainer.evaluate(model)["accuracy"]
