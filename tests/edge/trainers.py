"""Training code for tests: small, without torch, and one that fails in each way training code can."""

import sys
import time

import numpy as np

from edge_client.trainer import Tensors, Trainer, TrainingOutcome


class SmallTrainer(Trainer):
    """Twelve weights that grow by the parameter `step` each round."""

    def initial_model(self) -> Tensors:
        return {"w": np.zeros((4, 3), dtype=np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        step = np.float32(self.parameters.get("step", 1.0))
        return TrainingOutcome({"w": model["w"] + step}, int(self.options.get("samples", "10")), {"loss": 0.5})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"mean": float(model["w"].mean()), "accuracy": 0.9}


class FailingTrainer(SmallTrainer):
    """Evaluation raises."""

    def evaluate(self, model: Tensors) -> dict[str, float]:
        raise ValueError("no data here")


class DivergedTrainer(SmallTrainer):
    """Evaluation gives what is not a number."""

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {"loss": float("nan")}


class SilentTrainer(SmallTrainer):
    """Evaluation ends the process before it has said anything."""

    def evaluate(self, model: Tensors) -> dict[str, float]:
        sys.exit(0)


class SlowTrainer(SmallTrainer):
    """Evaluation takes longer than anybody waits."""

    def evaluate(self, model: Tensors) -> dict[str, float]:
        time.sleep(60)
        return {}


class ReshapingTrainer(SmallTrainer):
    """Returns a tensor that NumPy would broadcast to the right shape."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        return TrainingOutcome({"w": np.zeros((1, 3), dtype=np.float32)}, 10)


class NotATrainer:
    """Has the name of a class and nothing of a trainer."""
