"""Driver: a model shared by three sealed processes; kill -9 the enclave worker, and the model must be that of one."""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from tests.system.recovery_driver import in_order_of_device_ids, sealed_processes
from tests.system.running_site import KnownUpdateTrainer, create_federation, enrol, set_up_django, site, wait_for

PARAMETERS = 3_000_000
DEVICES = 6
RANGES = 3


def main() -> None:
    set_up_django()
    from django.conf import settings
    from django.utils import timezone

    from enclave.core.rules.in_memory import Aggregator
    from enclave.models import EnclaveInstance
    from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
    from qflare_protocol.tensors import encode_tensors, model_digest
    from training.models import Round, RoundState
    from training.services.rounds import open_round

    generator = np.random.default_rng(7)
    common = generator.standard_normal(PARAMETERS).astype(np.float32)
    changes = [{"w": (common + 0.3 * generator.standard_normal(PARAMETERS)).astype(np.float32)} for _ in range(DEVICES)]
    counts = [10] * DEVICES
    # A rule that only chooses: where weights are iterated to, the code in memory may end in other last bits, for its
    # rows lie otherwise. That ranges give the bits of one sealed process for every rule is for tests/enclave_core.
    policy = AggregationPolicy(ranges=RANGES, rule=Stage("trimmed-mean"))
    with site() as group:
        federation = create_federation({"w": np.zeros(PARAMETERS, np.float32)}, policy=policy)
        workers = [
            enrol(group.url, f"device-{index}", Path(settings.QFLARE_DATA_DIR), KnownUpdateTrainer(change, count))
            for index, (change, count) in enumerate(zip(changes, counts, strict=True))
        ]
        round_ = open_round(federation.id, actor="operator:test", now=timezone.now())
        wait_for(lambda: Round.objects.filter(id=round_.id, state=RoundState.OPEN).exists(), "the round to open")
        keys = {bytes(key) for key in EnclaveInstance.objects.values_list("key_id", flat=True)}
        assert len(keys) == RANGES, f"{len(keys)} enclaves were prepared"
        for worker in workers:
            assert worker.work_once()[0], "the device was given no work"

        sealed = wait_for(sealed_processes, "a sealed process")
        os.kill(group.pids()["enclave"], signal.SIGKILL)
        wait_for(lambda: not sealed[0].is_running(), "the sealed process to die with its worker")
        group.restart("enclave")
        wait_for(Round.objects.filter(id=round_.id, state=RoundState.COMPLETED).exists, "the round to complete")

        final = Round.objects.select_related("resulting_version").get(id=round_.id)
        rows, samples = in_order_of_device_ids(workers, changes, counts)
        expected, _ = Aggregator(policy).aggregate(rows, samples)
        digest = model_digest(encode_tensors({"w": expected}))
        assert bytes(final.resulting_version.digest) == digest, "the model is another one"
    print(f"completed by {len(keys)} ranges")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
