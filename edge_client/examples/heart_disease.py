"""Logistic regression on the patients of one hospital, in NumPy: the training code of docs/tutorials/four-hospitals.md.

Federation parameters: `seed` (of the split), `local_steps`, `learning_rate`.
Device options: `data` (the folder with the hospital's file) and `hospital` (one of `HOSPITALS`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.examples.heart_disease_data import FEATURES, Features, Patients, read_hospital, split
from edge_client.trainer import Tensors, Trainer, TrainingOutcome


class HeartDiseaseTrainer(Trainer):
    """Gradient descent over all of this hospital's training patients; it evaluates on those it holds out."""

    def __init__(self, parameters: Mapping[str, Any], options: Mapping[str, str]) -> None:
        super().__init__(parameters, options)
        self._patients: tuple[Patients, Patients] | None = None

    def initial_model(self) -> Tensors:
        """Return zeros: every patient has even odds."""
        return {"weights": np.zeros(FEATURES, np.float32), "bias": np.zeros(1, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Take the federation's number of steps; nothing in them is random."""
        patients = self._split()[0]
        weights, bias = model["weights"].copy(), model["bias"].copy()
        learning_rate = np.float32(self.parameters.get("learning_rate", 0.4))
        for _ in range(int(self.parameters.get("local_steps", 5))):
            error = _probabilities({"weights": weights, "bias": bias}, patients.features) - patients.labels
            weights -= learning_rate * (error @ patients.features) / np.float32(len(patients))
            bias -= learning_rate * error.mean()
        trained = {"weights": weights, "bias": bias}
        return TrainingOutcome(trained, len(patients), {"loss": _measures(trained, patients)["loss"]})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Return loss and accuracy on the patients that are held out here."""
        return _measures(model, self._split()[1])

    def _split(self) -> tuple[Patients, Patients]:
        if self._patients is None:
            patients = read_hospital(Path(self.options["data"]), self.options["hospital"])
            self._patients = split(patients, int(self.parameters.get("seed", 0)))
        return self._patients


def _probabilities(model: Tensors, features: Features) -> Features:
    odds: Features = 1 / (1 + np.exp(-(features @ model["weights"] + model["bias"])))
    return odds


def _measures(model: Tensors, patients: Patients) -> dict[str, float]:
    probabilities = np.clip(_probabilities(model, patients.features), 1e-6, 1 - 1e-6)
    given = np.where(patients.labels > 0, probabilities, 1 - probabilities)
    return {"loss": float(-np.log(given).mean()), "accuracy": float((given > 0.5).mean())}
