"""Driver: devices of different speed train one model without waiting for each other; every version is FedBuff's sum.

Four devices are fast and fill buffers of four. Three begin at version 0 and end when the run lets them: one
update is then one version old, one three, and one too old, so that its device trains anew.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.trainer import Tensors, TrainingOutcome
from tests.policies import bare
from tests.system.running_site import (
    KnownUpdateTrainer,
    create_federation,
    enrol,
    judged_round_of,
    set_up_django,
    site,
    wait_for,
)

MAXIMUM_STALENESS, EXPONENT = 3, 1.0
"""With exponent 1 an update of staleness t weighs 1 / (1 + t): exact in float32 for 0, 1 and 3."""

TARGET = 4
FAST, SLOW = ("fast-1", "fast-2", "fast-3", "fast-4"), ("slow-by-one", "slow-by-three", "too-slow")


class WaitingTrainer(KnownUpdateTrainer):
    """Begins to train and ends when it is let."""

    def __init__(self, change: Tensors) -> None:
        super().__init__(change, 10)
        self.begun, self.may_end, self.trainings = threading.Event(), threading.Event(), 0

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        self.trainings += 1
        before = {name: np.array(value) for name, value in model.items()}
        self.begun.set()
        assert self.may_end.wait(120), "nobody let the training end"
        return super().train(before, round_number)


def changes() -> dict[str, np.ndarray]:
    """Return what each device adds: multiples of 16, so that halves and quarters of four of them are exact."""
    generator = np.random.default_rng(17)
    return {name: 16 * generator.integers(-50, 50, 600).astype(np.float32) for name in (*FAST, *SLOW)}


def main() -> None:
    set_up_django()
    from django.conf import settings

    from training.terms import Terms

    change, folder = changes(), Path(settings.QFLARE_DATA_DIR)
    with site() as group:
        waiting = {name: WaitingTrainer({"w": change[name]}) for name in SLOW}
        fast = {name: enrol(group.url, name, folder, KnownUpdateTrainer({"w": change[name]}, 10)) for name in FAST}
        slow = {name: enrol(group.url, name, folder, waiting[name]) for name in SLOW}
        run = Run(
            create_federation(
                {"w": np.zeros(600, np.float32)},
                bare(maximum_staleness=MAXIMUM_STALENESS, staleness_exponent=EXPONENT),
                terms=Terms(mode="asynchronous", target_updates=TARGET),
            ),
            change,
        )
        threads = [threading.Thread(target=hand_in_once, args=(worker,), daemon=True) for worker in slow.values()]
        for thread in threads:
            thread.start()
        for trainer in waiting.values():
            assert trainer.begun.wait(60), "a slow device was given no work"
        run.fill(fast, FAST)
        run.fill(fast, FAST[:3], waiting["slow-by-one"], ("slow-by-one", 1))
        run.fill(fast, FAST)
        run.fill(fast, FAST[1:], waiting["slow-by-three"], ("slow-by-three", 3))
        run.fill(fast, FAST[:3], waiting["too-slow"], ("too-slow", 0))
        for thread in threads:
            thread.join(30)
        assert [trainer.trainings for trainer in waiting.values()] == [1, 1, 2], "late trainings were not kept as said"
    print(f"{run.version} versions, each the weighted sum of its buffer")  # noqa: T201


def hand_in_once(worker: Any) -> None:
    """Ask for work until one update has its receipt."""
    wait_for(lambda: worker.work_once()[0], "a slow device to hand in", 200)


class Run:
    """The federation, and the model that its buffers must have led to."""

    def __init__(self, federation: Any, change: dict[str, np.ndarray]) -> None:
        self._federation, self._change = federation, change
        self.version, self.model = 0, np.zeros(600, np.float32)

    def fill(
        self,
        workers: dict[str, Any],
        fast: Sequence[str],
        slow: WaitingTrainer | None = None,
        late: tuple[str, int] | None = None,
    ) -> None:
        """Fill the next buffer, last with the update of a slow device and its staleness, and check its version."""
        for name in fast:
            wait_for(lambda name=name: workers[name].work_once()[0], f"{name} to hand in")
        if slow is not None:
            slow.may_end.set()
        self.version += 1
        staleness = dict.fromkeys(fast, 0) | ({late[0]: late[1]} if late else {})
        summed = sum(self._change[name] / (1 + age) ** EXPONENT for name, age in staleness.items())
        self.model = np.asarray(self.model + summed / TARGET, np.float32)
        self._check(staleness)

    def _check(self, staleness: dict[str, int]) -> None:
        """Compare the signed result of the newest buffer with what was handed in."""
        from devices.models import Device
        from qflare_protocol.tensors import encode_tensors, model_digest
        from training.models import Round, RoundState
        from training.services.round_sources import load_model

        done = Round.objects.filter(federation=self._federation, number=self.version, state=RoundState.COMPLETED)
        round_ = wait_for(done.select_related("resulting_version", "base_version").first, "the buffer to be aggregated")
        assert (round_.base_version.number, round_.resulting_version.number) == (self.version - 1, self.version)
        judged = judged_round_of(round_)
        assert all(verdict.accepted for verdict in judged.verdicts)
        names = {device.id.bytes: device.name for device in Device.objects.all()}
        assert {names[verdict.device_id]: verdict.staleness for verdict in judged.verdicts} == staleness
        assert [base.staleness for base in judged.result.older_bases] == list(
            range(1, min(self.version - 1, MAXIMUM_STALENESS) + 1)
        )
        expected = encode_tensors({"w": self.model})
        assert load_model(round_.resulting_version) == expected, f"version {self.version} is another model"
        assert judged.result.model_digest == model_digest(expected)


if __name__ == "__main__":
    sys.exit(main())
