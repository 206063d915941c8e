"""Driver: three devices that have the edge package alone work a round with training code of their own.

Run by `test_edge_package.py` with the package's command and a folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.system.running_site import create_federation, set_up_django, site, wait_for

SITES = ("site-1", "site-2", "site-3")
TRAINING_CODE = """
import numpy as np
from edge_client.trainer import Trainer, TrainingOutcome


class AddingTrainer(Trainer):
    def initial_model(self):
        return {"w": np.zeros(4, np.float32)}

    def train(self, model, round_number):
        return TrainingOutcome({"w": model["w"] + np.float32(self.options["step"])}, 10)

    def evaluate(self, model):
        return {"w": float(model["w"][0])}
"""


def device(command: Path, folder: Path, name: str, *arguments: str, token: str = "") -> subprocess.Popen[str]:  # noqa: S107
    """Start the package's command for a device, outside of this repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DJANGO"))}
    return subprocess.Popen(  # noqa: S603 - our own command
        [str(command), "--home", str(folder / name), "--key-file", str(folder / f"{name}.key"), *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder), "QFLARE_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a device's command and return what it said; fail with that where it fails."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def main() -> None:
    """Enrol the devices, let them pass preflight and work a round, and look at the model that came of it."""
    set_up_django()
    from django.utils import timezone

    from enrollment.services import issue_token
    from qflare_protocol.tensors import decode_tensors
    from training.models import Round, RoundState
    from training.services.round_sources import load_model
    from training.services.rounds import open_round

    command, folder = Path(sys.argv[1]), Path(sys.argv[2])
    (folder / "adding.py").write_text(TRAINING_CODE)
    with site() as group:
        federation = create_federation({"w": np.zeros(4, np.float32)})
        for name in SITES:
            token = issue_token(actor="operator:test", now=timezone.now(), device_name=name).text
            finish(device(command, folder, name, "enroll", "--server", group.url, "--name", name, token=token))
        assert "session" in finish(device(command, folder, SITES[0], "preflight"))
        opened = open_round(federation.id, actor="operator:test", now=timezone.now())
        work = ("train-once", "--trainer", "adding:AddingTrainer", "--option", "step=0.25")
        working = [device(command, folder, name, *work) for name in SITES]
        for process in working:
            finish(process)
        wait_for(Round.objects.filter(id=opened.id, state=RoundState.COMPLETED).exists, "the round to be completed")
        model = decode_tensors(load_model(Round.objects.get(id=opened.id).resulting_version))
        np.testing.assert_allclose(model["w"], 0.25, rtol=1e-6)
    sys.stdout.write("three devices of the package trained one model\n")


if __name__ == "__main__":
    main()
