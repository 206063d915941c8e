"""The process that runs the rounds: a site of the environment's profile, its devices in threads, samples in between.

python -m bench.memory.rounds FILE ROUNDS EVERY DEVICES
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.memory.page import Sample
from edge_client.trainer import Tensors, Trainer, TrainingOutcome

COLUMNS = 10_000
ASK_AGAIN_SECONDS = 0.3
ROUND_WITHIN_SECONDS = 300
OPERATOR = "operator:bench"
TRAINER = "bench.memory.rounds:NoiseTrainer"


class NoiseTrainer(Trainer):
    """Moves every weight by chance; another way in each round."""

    def initial_model(self) -> Tensors:
        return {"w": np.zeros(COLUMNS, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        chance = np.random.default_rng((int(self.options["number"]), round_number))
        moved = np.asarray(model["w"] + chance.standard_normal(COLUMNS, np.float32))
        return TrainingOutcome({"w": moved}, 10)

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"size": float(model["w"].size)}


def main() -> None:
    """Run the rounds and write the samples."""
    import django

    django.setup()
    from qflare_site.processes import ProcessGroup, free_address

    output, (rounds, every, devices) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    group = ProcessGroup(bind=free_address())
    group.start()
    try:
        federation_id = _create_federation()
        for number in range(devices):
            threading.Thread(target=_work, args=(_worker(group.url, number),), daemon=True).start()
        samples = _run(group, federation_id, rounds, every)
    finally:
        group.stop()
    output.write_text(json.dumps([asdict(sample) for sample in samples]))


def _run(group: Any, federation_id: Any, rounds: int, every: int) -> list[Sample]:
    samples, started = [], time.monotonic()
    for number in range(1, rounds + 1):
        _complete_a_round(federation_id)
        if number == 1 or number % every == 0:
            pids = group.pids()
            held = {kind: _held(pids, kind) for kind in ("pss", "rss", "uss")}
            sample = Sample(number, time.monotonic() - started, **held)
            samples.append(sample)
            said = "  ".join(f"{name} {size / (1 << 20):.1f}" for name, size in sample.uss.items())
            sys.stderr.write(f"{number:4} rounds, {sample.seconds:5.0f} s, private MiB: {said}\n")
    return samples


def _held(pids: dict[str, int], kind: str) -> dict[str, int]:
    """Return the bytes of each process with its children, sealed processes apart: they live for one request."""
    return {name: sum(_bytes_of(one, kind) for one in _family(pid)) for name, pid in pids.items()}


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _bytes_of(process: psutil.Process, kind: str) -> int:
    try:
        return 0 if "enclave.core" in process.cmdline() else int(getattr(process.memory_full_info(), kind))
    except psutil.Error:
        return 0  # it has ended since it was listed


def _complete_a_round(federation_id: Any) -> None:
    from django.utils import timezone

    from training.models import UNFINISHED, Round, RoundState
    from training.services.rounds import open_round
    from training.tasks import prepare_round

    round_ = open_round(federation_id, actor=OPERATOR, now=timezone.now())
    prepare_round.apply_async((str(round_.id),), expires=10)  # as the schedule does; a tick finds it too
    rounds = Round.objects.filter(id=round_.id)
    _wait(rounds.exclude(state__in=UNFINISHED).exists)
    ended = rounds.get()
    assert ended.state == RoundState.COMPLETED, ended.end_reason  # noqa: S101 - nothing was measured otherwise


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ROUND_WITHIN_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the round did not end in {ROUND_WITHIN_SECONDS} s")
        time.sleep(0.05)


def _create_federation() -> Any:
    from django.utils import timezone

    from qflare_protocol.aggregation_policy import AggregationPolicy
    from qflare_protocol.tensors import encode_tensors
    from training.services.federations import create_federation

    federation = create_federation(
        "many-rounds",
        initial_model=encode_tensors(NoiseTrainer({}, {}).initial_model()),
        trainer=TRAINER,
        policy=AggregationPolicy(),
        actor=OPERATOR,
        now=timezone.now(),
    )
    return federation.id


def _worker(url: str, number: int) -> Any:
    from django.conf import settings
    from django.utils import timezone

    from edge_client.backoff import Backoff
    from edge_client.device_state import DeviceStateFile
    from edge_client.enrolment import enroll_device
    from edge_client.http import Http
    from edge_client.identity_keeper import IdentityKeeper
    from edge_client.round_worker import RoundWorker
    from edge_client.training import TrainingHere
    from enrollment.services import issue_token

    name = f"device-{number}"
    token = issue_token(actor=OPERATOR, now=timezone.now(), device_name=name).text
    keeper = IdentityKeeper(enroll_device(Http(url), url, token, name), lambda changed: None)
    training = TrainingHere(lambda parameters: NoiseTrainer(parameters, {"number": str(number)}))
    memory = DeviceStateFile(Path(settings.QFLARE_DATA_DIR) / name)
    return RoundWorker(Http(url), keeper, memory, training, Backoff(0.1, 0.5))


def _work(worker: Any) -> None:
    worker.run(sleep=lambda seconds: time.sleep(min(seconds, ASK_AGAIN_SECONDS)))


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qflare_site.settings")
    main()
