"""A real site for system tests: its processes on a stage of its own, and devices that run in this process.

The drivers beside this module are run by `test_*.py` as processes of their own, because they use the
site's settings and database and not the ones of pytest.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.trainer import Tensors, Trainer, TrainingOutcome

ROOT = Path(__file__).resolve().parents[2]


def run_driver(module: str, *arguments: str, timeout_seconds: float = 300) -> str:
    """Run a driver on a fresh stage of the environment's profile; fail with its output when it fails."""
    from qflare_site.demo.settings import DemoSettings
    from qflare_site.demo.stage import demo_stage

    with demo_stage(DemoSettings(devices=10), keep=False) as stage:
        environment = stage.environment | {
            "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
            "QFLARE_LEASE_SECONDS": "4",
            "OPENBLAS_NUM_THREADS": "1",  # as the sealed process has it: drivers compute to the bit what it must
        }
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(  # noqa: S603 - our own driver
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
        logs = "" if done.returncode == 0 else _tails(stage.folder / "log")
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs}"
    return done.stdout


def _tails(folder: Path) -> str:
    return "\n".join(
        f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(folder.glob("*.log"))
    )


@contextlib.contextmanager
def site(bind: str = "") -> Iterator[Any]:
    """Start the processes of one host, on a free address unless one is given, and end them all."""
    from qflare_site.processes import ProcessGroup, free_address

    group = ProcessGroup(bind=bind or free_address())
    group.start()
    try:
        yield group
    finally:
        group.stop()


class KnownUpdateTrainer(Trainer):
    """Submits a change that the test chose, so that what the round must give is known exactly."""

    def __init__(self, change: Tensors, sample_count: int) -> None:
        super().__init__({}, {})
        self._change, self._sample_count = change, sample_count

    def initial_model(self) -> Tensors:
        return {name: np.zeros_like(value) for name, value in self._change.items()}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        changed = {name: model[name] + self._change[name] for name in model}
        return TrainingOutcome(changed, self._sample_count)

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"size": float(sum(value.size for value in model.values()))}


def create_federation(model: Tensors, policy: Any = None, *, name: str = "system-test", **options: Any) -> Any:
    """Create a federation of all devices that starts from this model."""
    from datetime import timedelta

    from django.utils import timezone

    from qflare_protocol.tensors import encode_tensors
    from tests.policies import screened
    from training.services import federations

    return federations.create_federation(
        name,
        initial_model=encode_tensors(model),
        trainer="tests.system.running_site:KnownUpdateTrainer",
        policy=policy or screened(),
        actor="operator:test",
        now=timezone.now(),
        round_time=timedelta(seconds=120),
        **options,
    )


def enrol(url: str, name: str, folder: Path, trainer: Trainer) -> Any:
    """Enrol a device over HTTP and return its round worker."""
    return worker_of(url, enrolled_identity(url, name), folder, trainer)


def enrolled_identity(url: str, name: str) -> Any:
    """Enrol a device over HTTP and return what it keeps."""
    from django.utils import timezone

    from edge_client.enrolment import enroll_device
    from edge_client.http import Http
    from enrollment.services import issue_token

    token = issue_token(actor="operator:test", now=timezone.now(), device_name=name).text
    return enroll_device(Http(url), url, token, name)


def worker_of(url: str, identity: Any, folder: Path, trainer: Trainer) -> Any:
    """Return the round worker of a device, whose state lies in the folder."""
    from edge_client.device_state import DeviceStateFile
    from edge_client.http import Http
    from edge_client.identity_keeper import IdentityKeeper
    from edge_client.round_worker import RoundWorker
    from edge_client.training import TrainingHere

    def make_trainer(parameters: Mapping[str, Any]) -> Trainer:
        return trainer

    keeper = IdentityKeeper(identity, lambda changed: None)
    return RoundWorker(Http(url), keeper, DeviceStateFile(folder / identity.name), TrainingHere(make_trainer))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Poll until the condition holds and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen in {seconds} s")
        time.sleep(0.02)
    return value


def judged_round_of(round_: Any) -> Any:
    """Return the result of a round with its verdicts, the signature of its enclave, or of its first range, checked."""
    from enclave.models import EnclaveInstance
    from qflare_protocol.cose import Verifier
    from qflare_protocol.encoding import encode
    from qflare_protocol.round_result import JudgedRound, SignedResult
    from training.verdict_proofs import verdict_proofs_of

    instance = EnclaveInstance.objects.get(round_id=round_.id, range_index=0)
    verifier = Verifier("ML-DSA-44", bytes(instance.result_public_key))
    verdicts = encode([proof.leaf for proof in verdict_proofs_of(round_.id)])
    return JudgedRound.verified(SignedResult(bytes(round_.resulting_version.provenance), verdicts), verifier)


def set_up_django() -> None:
    """Load the site's settings in a driver."""
    import django

    assert os.environ["DJANGO_SETTINGS_MODULE"] == "qflare_site.settings"
    django.setup()
