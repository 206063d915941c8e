"""Driver: the Node client enrols, opens sessions, rotates keys and works rounds beside two devices of this project.

Run by `test_node_client.py` with the folder of the client, its packages installed.
"""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_client.trainer import Tensors, Trainer, TrainingOutcome
from tests.system.running_site import ROOT, create_federation, set_up_django, site

SUITE = "QF1-K1024"
STEP = 0.001
MODEL: Tensors = {"bias": np.zeros(3, dtype=np.float32), "weight": np.ones((4, 3), dtype=np.float32)}
EDGE = Path(sys.executable).with_name("qflare-edge")
SECONDS = 150

Command = Sequence[str | Path]
STARTED: list[subprocess.Popen[str]] = []


class SteppingTrainer(Trainer):
    """Adds the step of the Node client's ConstantStepTrainer, so that the aggregate is known."""

    def initial_model(self) -> Tensors:
        return MODEL

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        return TrainingOutcome({name: value + np.float32(STEP) for name, value in model.items()}, 1)

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"bias": float(model["bias"][0])}


def start(command: Command, **environment: str) -> subprocess.Popen[str]:
    """Start a process whose output is one text."""
    process = subprocess.Popen(  # noqa: S603 - our own commands
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for a process and return its output; fail with it for any other exit status."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{process.args} took too long: {process.communicate()[0]}") from None
    assert process.returncode == status, f"{process.args} ended with {process.returncode}: {output}"
    return output


def tokens(count: int) -> list[str]:
    """Issue tokens of the suite for `site-1`, `site-2` and so on."""
    from django.core.management import call_command

    shown = io.StringIO()
    call_command("generate_token", name="site", count=count, suite=SUITE, stdout=shown)
    return [line.split()[-1] for line in shown.getvalue().splitlines() if line.strip().startswith("token ")]


def work_round(node: Command, others: Sequence[Command]) -> tuple[str, str]:
    """Open a round, let all devices work it and return what the operator and the Node client were told."""
    opened = start([sys.executable, "manage.py", "federated_start", "system-test", "--wait"])
    devices = [start([*node, "--scale", str(STEP)]), *(start(command) for command in others)]
    outputs = [finish(device) for device in devices]
    return finish(opened), outputs[0]


def enrol_node(command: Command, url: str, folder: Path, token: str) -> None:
    """Enrol the Node client as site-1; the token then serves nobody else."""

    def enrolment(home: Path) -> subprocess.Popen[str]:
        return start([*command, "enroll", "--server", url, "--name", "site-1", "--home", home], QFLARE_TOKEN=token)

    assert "enrolled as site-1" in finish(enrolment(folder / "node"))
    assert (folder / "node" / "device.json").stat().st_mode & 0o777 == 0o600
    assert "refused: token-used" in finish(enrolment(folder / "again"), status=2)


def enrol_other(url: str, folder: Path, name: str, token: str) -> list[str | Path]:
    """Enrol a device of this project and return the command by which it works one round."""
    device = [EDGE, "--home", folder / name, "--key-file", folder / f"{name}.key"]
    names = ["--server", url, "--name", name, "--suite", SUITE]
    finish(start([*device, "enroll", *names], QFLARE_TOKEN=token))
    return [*device, "train-once", "--trainer", "tests.system.node_client_driver:SteppingTrainer"]


def play(url: str, client: Path, folder: Path) -> None:
    """Play the whole part of a device with the Node client."""
    command: Command = ["node", client / "bin" / "qflare-node.mjs"]
    token, *other_tokens = tokens(3)
    enrol_node(command, url, folder, token)
    others = [enrol_other(url, folder, f"site-{number}", other) for number, other in enumerate(other_tokens, start=2)]
    home = ["--home", folder / "node"]

    session = finish(start([*command, "session", *home]))
    assert "generation 1, offered by the device" in session
    assert "generation 2, offered by the server" in session

    told, said = work_round([*command, "train-once", *home], others)
    assert "3 accepted, 0 rejected" in told
    assert "TRUST ON FIRST USE" in said
    assert "receipt verified" in said

    assert "new keys are registered" in finish(start([*command, "rotate-keys", *home]))
    told, said = work_round([*command, "train-once", *home], others)
    assert "3 accepted, 0 rejected" in told
    assert "this device's update was accepted" in said
    assert "TRUST ON FIRST USE" not in said
    sys.stdout.write("the Node client took part in two rounds\n")


def main() -> None:
    """Start the site, with a federation of all devices, and run the Node client against it."""
    set_up_django()
    client, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with site() as group:
        create_federation(MODEL)
        try:
            play(group.url, client, folder)
        finally:
            for process in STARTED:  # a device left alone would ask a site that is gone for ever
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
