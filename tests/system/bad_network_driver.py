"""Driver: a device behind a bad network, killed at random steps, takes part in two rounds and is counted once in each.

Between the rounds it is away; the site is never restarted.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.trainer import Tensors, Trainer, TrainingOutcome
from tests.system.bad_network import BadNetwork
from tests.system.running_site import ROOT, KnownUpdateTrainer, create_federation, enrol, set_up_django, site, wait_for

PARAMETERS = 3_000_000
SEED = 11
KILLS = 6
NAME = "far-away"


class SteadyTrainer(Trainer):
    """Takes a moment and moves every weight by the same."""

    def initial_model(self) -> Tensors:
        return {"w": np.zeros(PARAMETERS, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        time.sleep(0.2)
        return TrainingOutcome({"w": np.asarray(model["w"] + change(0)["w"])}, 10)

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"size": float(model["w"].size)}


def change(number: int) -> Tensors:
    """Return what a device adds: nearly the same for all."""
    noise = np.random.default_rng(number).standard_normal(PARAMETERS).astype(np.float32)
    return {"w": np.float32(1) + np.float32(0.1) * noise}


def main() -> None:
    os.environ |= {"QFLARE_UPLOAD_PIECE_BYTES": str(1 << 20)} | {
        f"QFLARE_RATE_{scope}": "100000/m" for scope in ("SUBMISSION", "DOWNLOAD", "WORK", "CHALLENGE", "UPLOAD")
    }
    set_up_django()
    from django.conf import settings
    from django.utils import timezone

    from enrollment.services import issue_token

    folder = Path(settings.QFLARE_DATA_DIR)
    with site() as group:
        federation = create_federation({"w": np.zeros(PARAMETERS, np.float32)})
        near = [enrol(group.url, f"near-{number}", folder, KnownUpdateTrainer(change(number), 10)) for number in (1, 2)]
        network = BadNetwork(group.url, SEED)
        device = Device(folder / NAME)
        token = issue_token(actor="operator:test", now=timezone.now(), device_name=NAME).text
        enrolled = device.start("enroll", "--server", network.url, "--token", token, "--name", NAME)
        assert enrolled.wait(60) == 0
        network.calm = False
        kills = sum(work_through(federation, near, device, random.Random(SEED + number)) for number in (1, 2))  # noqa: S311
        network.close()
    bad = {fate: count for fate, count in network.fates.items() if fate != "honest"}
    assert len(bad) >= 4, f"the network was not bad enough: {network.fates}"
    print(f"counted once in each of 2 rounds, after {kills} kills and {sum(bad.values())} bad connections")  # noqa: T201


class Device:
    """The real client in processes of its own, over one home folder."""

    def __init__(self, home: Path) -> None:
        self._options = ["--home", str(home), "--key-file", f"{home}.key"]

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "edge_client", *self._options, *arguments]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)  # noqa: S603 - our own client

    def work(self) -> "subprocess.Popen[bytes]":
        trainer = f"{SteadyTrainer.__module__}:SteadyTrainer".replace("__main__", "tests.system.bad_network_driver")
        return self.start("train-once", "--trainer", trainer, "--longest-wait", "0.5")


def work_through(federation: Any, near: list[Any], device: Device, chance: random.Random) -> int:
    """Run one round; return how often the device was killed in it."""
    from django.utils import timezone

    from audit.models import Event
    from training.models import Participation, Round, RoundState, Update
    from training.services.rounds import open_round

    round_ = open_round(federation.id, actor="operator:test", now=timezone.now())
    now = Round.objects.filter(id=round_.id)
    wait_for(now.filter(state=RoundState.OPEN).exists, "the round to open")
    for worker in near:
        assert worker.work_once()[0], "the device was given no work"
    part, kills = Participation.objects.filter(round=round_, device__name=NAME), 0
    submitted = part.exclude(state__in=("invited", "downloaded"))
    while kills < KILLS and not submitted.exists():
        process = device.work()
        time.sleep(chance.uniform(0.5, 2.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    if not submitted.exists():
        last = device.work()
        wait_for(submitted.exists, "the update to arrive", 90)
        last.terminate()
        last.wait()
    wait_for(now.filter(state=RoundState.COMPLETED).exists, "the round to complete", 60)
    assert now.get().submissions == 3
    assert set(part.values_list("state", flat=True)) == {"accepted"}
    assert Update.objects.filter(participation__round=round_).count() == 3
    of_device = Event.objects.filter(kind="update.received", payload__device=NAME, payload__round_number=round_.number)
    assert of_device.count() == 1
    return kills


if __name__ == "__main__":
    sys.exit(main())
