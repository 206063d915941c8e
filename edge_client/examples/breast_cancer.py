"""A scikit-learn classifier on the Wisconsin breast cancer data: the example of training code for scikit-learn.

569 patients with 30 measures each, shared out evenly; a fifth of every device's patients is held out there.
Federation parameters: `seed`, `shards`, `epochs`, `learning_rate`. Device option: `shard`, from 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier

from edge_client.trainer import EvaluationOutcome, Tensors, Trainer, TrainingOutcome

MEASURES = 30
HELD_OUT_EVERY = 5
Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


class BreastCancerTrainer(Trainer):
    """Logistic regression by scikit-learn's SGD, warm-started from the federation's weights."""

    def initial_model(self) -> Tensors:
        """Return zeros: every tumour is as likely malignant as not."""
        return {"weights": np.zeros((1, MEASURES), np.float32), "bias": np.zeros(1, np.float32)}

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Train some epochs over this device's patients; nothing in them is random but the order."""
        (features, labels), _ = self._patients()
        classifier = self._classifier(model, round_number)
        epochs = int(self.parameters.get("epochs", 5))
        for epoch in range(epochs):
            classifier.partial_fit(features, labels)
            self.report((epoch + 1) / epochs, accuracy=float(classifier.score(features, labels)))
        trained = {"weights": classifier.coef_.astype(np.float32), "bias": classifier.intercept_.astype(np.float32)}
        return TrainingOutcome(trained, len(labels), {"accuracy": float(classifier.score(features, labels))})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Return the accuracy on the patients that all devices hold out."""
        features, labels = _standardised()
        return {"accuracy": self._score(model, (features[::HELD_OUT_EVERY], labels[::HELD_OUT_EVERY]))}

    def evaluate_here(self, model: Tensors) -> EvaluationOutcome | None:
        """Return the accuracy on the patients that this device holds out, if any."""
        _, held_out = self._patients()
        if not len(held_out[1]):
            return None
        return EvaluationOutcome(len(held_out[1]), {"accuracy": self._score(model, held_out)})

    def _score(self, model: Tensors, rows: Rows) -> float:
        return float(self._classifier(model, 0).score(*rows))

    def _classifier(self, model: Tensors, round_number: int) -> Any:
        classifier = SGDClassifier(
            loss="log_loss",
            learning_rate="constant",
            eta0=float(self.parameters.get("learning_rate", 0.05)),
            random_state=int(self.parameters.get("seed", 0)) + round_number,
        )
        classifier.partial_fit(np.zeros((2, MEASURES)), [0, 1], classes=[0, 1])  # makes the arrays that are set here
        classifier.coef_ = np.array(model["weights"], dtype=np.float64)
        classifier.intercept_ = np.array(model["bias"], dtype=np.float64)
        return classifier

    def _patients(self) -> tuple[Rows, Rows]:
        """Return this device's patients to train on and those it holds out."""
        features, labels = _standardised()
        own = np.arange(len(labels)) % int(self.parameters.get("shards", 1)) == int(self.options.get("shard", "0"))
        held_out = np.arange(len(labels)) % HELD_OUT_EVERY == 0
        return (features[own & ~held_out], labels[own & ~held_out]), (features[own & held_out], labels[own & held_out])


def _standardised() -> Rows:
    features, labels = load_breast_cancer(return_X_y=True)
    return (features - features.mean(axis=0)) / features.std(axis=0), labels.astype(np.int64)
