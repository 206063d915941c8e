"""Linear regression in plain NumPy on the diabetes data: the example of training code without any library.

442 patients with 10 measures each and how far their disease came in a year, shared out evenly; a fifth of
every device's patients is held out there. The data ship with scikit-learn.
Federation parameters: `shards`, `local_steps`, `learning_rate`. Device option: `shard`, from 0.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes

from edge_client.trainer import EvaluationOutcome, Tensors, Trainer, TrainingOutcome

MEASURES = 10
HELD_OUT_EVERY = 5
Rows = NDArray[np.float32]


class DiabetesTrainer(Trainer):
    """Gradient descent over all of this device's patients."""

    def initial_model(self) -> Tensors:
        """Return zeros: everybody is the mean patient."""
        return {"weights": np.zeros(MEASURES, np.float32), "bias": np.zeros(1, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Take the federation's number of steps; nothing in them is random."""
        features, progress = self._patients(held_out=False)
        weights, bias = model["weights"].copy(), model["bias"].copy()
        learning_rate = np.float32(self.parameters.get("learning_rate", 0.1))
        steps = int(self.parameters.get("local_steps", 20))
        for step in range(steps):
            error = features @ weights + bias - progress
            weights -= learning_rate * (error @ features) / np.float32(len(error))
            bias -= learning_rate * error.mean()
            self.report((step + 1) / steps, loss=float((error**2).mean()))
        trained = {"weights": weights, "bias": bias}
        return TrainingOutcome(trained, len(progress), {"loss": _loss(trained, features, progress)})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Return the squared error on the patients that all devices hold out."""
        features, progress = _standardised()
        return {"loss": _loss(model, features[::HELD_OUT_EVERY], progress[::HELD_OUT_EVERY])}

    def evaluate_here(self, model: Tensors) -> EvaluationOutcome | None:
        """Return the squared error on the patients that this device holds out, if any."""
        features, progress = self._patients(held_out=True)
        if not len(progress):
            return None
        return EvaluationOutcome(len(progress), {"loss": _loss(model, features, progress)})

    def _patients(self, *, held_out: bool) -> tuple[Rows, Rows]:
        features, progress = _standardised()
        place = np.arange(len(progress))
        own = place % int(self.parameters.get("shards", 1)) == int(self.options.get("shard", "0"))
        chosen = own & ((place % HELD_OUT_EVERY == 0) == held_out)
        return features[chosen], progress[chosen]


def _loss(model: Tensors, features: Rows, progress: Rows) -> float:
    return float(((features @ model["weights"] + model["bias"] - progress) ** 2).mean())


def _standardised() -> tuple[Rows, Rows]:
    features, progress = load_diabetes(return_X_y=True, scaled=False)
    standard = [(column - column.mean(axis=0)) / column.std(axis=0) for column in (features, progress)]
    return standard[0].astype(np.float32), standard[1].astype(np.float32)
