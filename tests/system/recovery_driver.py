"""Driver: kill -9 the enclave worker, then the sealed process, during aggregation; the model must be the same."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil

from tests.system.running_site import KnownUpdateTrainer, create_federation, enrol, set_up_django, site, wait_for

PARAMETERS = 6_000_000
DEVICES = 4


def main() -> None:
    set_up_django()
    from django.conf import settings
    from django.utils import timezone

    from enclave.core.rules.in_memory import Aggregator
    from qflare_protocol.tensors import encode_tensors, model_digest
    from training.models import Round, RoundState
    from training.services.rounds import open_round

    generator = np.random.default_rng(7)
    common = generator.standard_normal(PARAMETERS).astype(np.float32)
    changes = [{"w": (common + 0.3 * generator.standard_normal(PARAMETERS)).astype(np.float32)} for _ in range(DEVICES)]
    counts = [10, 20, 30, 40]
    folder = Path(settings.QFLARE_DATA_DIR)
    with site() as group:
        federation = create_federation({"w": np.zeros(PARAMETERS, np.float32)})
        workers = [
            enrol(group.url, f"device-{index}", folder, KnownUpdateTrainer(change, count))
            for index, (change, count) in enumerate(zip(changes, counts, strict=True))
        ]
        round_ = open_round(federation.id, actor="operator:test", now=timezone.now())
        wait_for(lambda: Round.objects.filter(id=round_.id, state=RoundState.OPEN).exists(), "the round to open")
        for worker in workers:
            assert worker.work_once()[0], "the device was given no work"

        held = Round.objects.filter(id=round_.id, state=RoundState.AGGREGATING).exclude(lease_holder=None)
        wait_for(held.exists, "the aggregation to start")
        first_sealed = wait_for(sealed_processes, "a sealed process")
        os.kill(group.pids()["enclave"], signal.SIGKILL)
        wait_for(lambda: not first_sealed[0].is_running(), "the sealed process to die with its worker")
        assert Round.objects.get(id=round_.id).state == RoundState.AGGREGATING
        group.restart("enclave")

        second_sealed = wait_for(sealed_processes, "a sealed process of the new worker")
        assert second_sealed[0].pid != first_sealed[0].pid
        second_sealed[0].kill()
        finished = Round.objects.filter(id=round_.id, state=RoundState.COMPLETED)
        wait_for(finished.exists, "the round to complete")

        final = Round.objects.select_related("resulting_version").get(id=round_.id)
        assert final.attempts >= 3, f"the step was started {final.attempts} times: it was not killed twice"
        assert final.submissions == DEVICES
        rows, samples = in_order_of_device_ids(workers, changes, counts)
        undisturbed, _ = Aggregator(final.aggregation_policy()).aggregate(rows, samples)
        mean = np.average(rows, axis=0, weights=samples)
        assert np.allclose(undisturbed, mean, rtol=1e-5, atol=1e-6), "the model is not the weighted mean"
        expected = encode_tensors({"w": undisturbed})
        assert bytes(final.resulting_version.digest) == model_digest(expected), "the model is another one"
    print(f"completed after {final.attempts} attempts")  # noqa: T201


def sealed_processes() -> list[psutil.Process]:
    """Return the sealed processes below this one that aggregate."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.name().startswith("sealed aggregat"):  # of a name the kernel keeps 15 bytes
                found.append(process)
    return found


def in_order_of_device_ids(workers: list, changes: list, counts: list[int]) -> tuple[np.ndarray, list[int]]:
    """Return the updates and their sample counts as the sealed process reads them."""
    order = sorted(range(len(workers)), key=lambda index: workers[index].device_id)
    return np.stack([changes[index]["w"] for index in order]), [counts[index] for index in order]


if __name__ == "__main__":
    sys.exit(main())
