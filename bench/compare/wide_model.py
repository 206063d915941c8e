"""A model of 50 MB whose training is one pass over it: what a round costs beside its training.

Federation parameter: `values`, the number of float32. Device option: `shard`.
"""

import numpy as np

from edge_client.trainer import Tensors, Trainer, TrainingOutcome

STEP = 1e-3


class WideTrainer(Trainer):
    """Adds a little noise, another one on each shard and in each round."""

    def initial_model(self) -> Tensors:
        """Return zeros."""
        return {"w": np.zeros(int(self.parameters["values"]), dtype=np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Return the model with noise of a fixed norm."""
        generator = np.random.default_rng([round_number, int(self.options.get("shard", "0"))])
        noise = generator.standard_normal(len(model["w"]), dtype=np.float32)
        return TrainingOutcome({"w": model["w"] + np.float32(STEP) * noise}, 100, {"loss": 1.0})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Return the mean size of a value."""
        return {"size": float(np.abs(model["w"]).mean()), "accuracy": 0.0}
