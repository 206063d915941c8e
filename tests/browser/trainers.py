"""Training code of the browser's devices: a known change, at a pace that a person can watch; one of them poisoned."""

import time
from typing import Any

import numpy as np

from edge_client.trainer import Tensors, Trainer, TrainingOutcome

SHAPE = (64, 10)
STEPS, SECONDS_A_STEP = 5, 0.2


class SteadyTrainer(Trainer):
    """Moves every weight the same way, with a little noise of its own, and tells how far it is."""

    direction = 1.0

    def initial_model(self) -> Tensors:
        return {"weights": np.zeros(SHAPE, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        for step in range(1, STEPS + 1):
            time.sleep(SECONDS_A_STEP)
            self.report(step / STEPS, loss=1 / (round_number + step))
        noise = np.random.default_rng().normal(0, 0.05, SHAPE)
        changed = (model["weights"] + self.direction * (0.1 + noise)).astype(np.float32)
        return TrainingOutcome({"weights": changed}, 100, {"loss": 1 / (round_number + STEPS)})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        reached = float(np.clip(model["weights"].mean(), 0.0, 1.0))
        return {"accuracy": 1 - 0.8 * (1 - reached) ** 8, "loss": float((1 - reached) ** 2)}


class PoisonedTrainer(SteadyTrainer):
    """Moves the other way: a simulated attacker."""

    direction = -1.0


def initial_model_file(options: dict[str, Any] | None = None) -> bytes:
    """Return the safetensors file that a federation starts from."""
    from qflare_protocol.tensors import encode_tensors

    return encode_tensors(SteadyTrainer({}, options or {}).initial_model())
