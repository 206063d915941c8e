"""Driver: three devices run an unchanged Flower client by `qflare-edge run --app` and work a round.

Run by `test_whole_system.py` with a folder.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.system.running_site import ROOT, create_federation, set_up_django, site, wait_for

APP = "flower:tests.edge.flower_app:client_fn"
DEVICES = 3
STEPS = 50


def device(folder: Path, number: int, url: str, token: str) -> subprocess.Popen[str]:
    """Start the command of a device, which enrols itself and works one round on its own partition."""
    home = folder / f"device-{number}"
    command = [sys.executable, "-m", "edge_client", "--home", str(home), "--key-file", str(folder / f"{number}.key")]
    work = ["run", "--rounds", "1", "--app", APP, "--option", f"partition-id={number}", "--server", url]
    return subprocess.Popen(  # noqa: S603 - our own command
        [*command, *work, "--name", f"flower-{number}"],
        cwd=ROOT,
        env=os.environ | {"QFLARE_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> None:
    """Let the devices work a round, and look whether the model has learned the line."""
    set_up_django()
    from django.utils import timezone

    from devices.models import Device
    from edge_client.trainer import load_trainer
    from enrollment.services import issue_token
    from qflare_protocol.tensors import decode_tensors
    from training.models import Round, RoundState
    from training.services.round_sources import load_model
    from training.services.rounds import open_round

    parameters = {"steps": STEPS}
    initial = load_trainer(APP, parameters, {"partition-id": "0"}).initial_model()
    with site() as group:
        federation = create_federation(initial, trainer_parameters=parameters)
        tokens = [
            issue_token(actor="operator:test", now=timezone.now(), device_name=f"flower-{number}").text
            for number in range(DEVICES)
        ]
        working = [device(folder(), number, group.url, token) for number, token in enumerate(tokens)]
        wait_for(lambda: Device.objects.count() == DEVICES, "the enrolment of the devices")
        opened = open_round(federation.id, actor="operator:test", now=timezone.now())
        for process in working:
            said, _ = process.communicate(timeout=150)
            assert process.returncode == 0, said
            assert "1 updates handed in" in said
        wait_for(Round.objects.filter(id=opened.id, state=RoundState.COMPLETED).exists, "the round to be completed")
        model = decode_tensors(load_model(Round.objects.get(id=opened.id).resulting_version))
    error = abs(float(model["parameter.0000"][0]) - 3) + abs(float(model["parameter.0001"]) - 1)
    assert error < 0.5, model  # 4 at the beginning; the policy bounds what one round may change
    assert model["parameter.0002"][0] == 1, "each device counted one round"
    sys.stdout.write(f"the Flower client of {DEVICES} devices learned the line\n")


def folder() -> Path:
    """Return the folder that the driver was given."""
    return Path(sys.argv[1])


if __name__ == "__main__":
    main()
