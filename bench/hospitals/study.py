"""Training at each hospital alone, together, and on all patients in one place; with privacy, and with a poisoner."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.attacks.run import Aggregate
from bench.attacks.training import Matrix, Network, Vector, softmax
from edge_client.examples.heart_disease_data import FEATURES, Patients
from training.privacy import noise_for

ROUNDS, LOCAL_STEPS, LEARNING_RATE = 30, 5, 0.2
PRIVATE_LEARNING_RATE, CLIP = 1.0, 1.0
BOOST = 5.0
MODELS = {"logistic regression": Network(FEATURES, 0, 2), "network with 16 hidden units": Network(FEATURES, 16, 2)}


@dataclass(frozen=True)
class Privacy:
    """Differential privacy of each patient, at the hospital: of every step's gradient, before anything leaves.

    Neighbouring data differ by one patient who is added or removed; the number of patients counts as public.
    Every step looks at all patients, so no amplification by sampling is claimed. A patient is in one
    hospital only, so the guarantee of the four together is that of one.
    """

    epsilon: float
    delta: float = 1e-4

    @cached_property
    def multiplier(self) -> float:
        """The noise on the sum of clipped gradients, in multiples of the clipping norm; none for infinite epsilon."""
        return 0.0 if math.isinf(self.epsilon) else noise_for(ROUNDS, self.epsilon, self.delta)


def train(
    network: Network, model: Vector, patients: Patients, privacy: Privacy | None, generator: np.random.Generator
) -> Vector:
    """Return what one round of training on these patients changes of the model."""
    if privacy is not None:
        return _private_step(network, model, patients, privacy, generator)
    trained = model[None].copy()
    labels = patients.labels.astype(np.int64)[None]
    for _ in range(LOCAL_STEPS):
        network.descend(trained, patients.features[None], labels, LEARNING_RATE)
    return trained[0] - model


def _private_step(
    network: Network, model: Vector, patients: Patients, privacy: Privacy, generator: np.random.Generator
) -> Vector:
    """Return one step down clipped gradients with noise (Abadi et al. 2016); all patients are one batch."""
    steps = np.repeat(model[None], len(patients), axis=0)
    network.descend(steps, patients.features[:, None], patients.labels.astype(np.int64)[:, None], 1.0)
    steps -= model
    norms = np.linalg.norm(steps, axis=1, keepdims=True)
    steps *= np.minimum(1, CLIP / np.maximum(norms, 1e-12)).astype(np.float32)
    noise = generator.normal(0, privacy.multiplier * CLIP, len(model))
    return np.float32(PRIVATE_LEARNING_RATE / len(patients)) * (steps.sum(axis=0) + noise.astype(np.float32))


def train_alone(network: Network, patients: Patients, seed: int, privacy: Privacy | None = None) -> Vector:
    """Return the model of one place that has these patients, after as many steps as a federation takes."""
    generator = np.random.default_rng(seed)
    model = network.initial(generator)
    for _ in range(ROUNDS):
        model = model + train(network, model, patients, privacy, generator)
    return model


Poison = Callable[[Vector, Matrix], Vector]
"""Takes the poisoner's honest update and those of the others; returns what it sends."""
POISONS: dict[str, Poison] = {
    "sign flip, five times": lambda own, others: np.float32(-BOOST) * own,
    "inner product 2": lambda own, others: np.float32(-2) * others.mean(axis=0),
    "inner product 0.5": lambda own, others: np.float32(-0.5) * others.mean(axis=0),
}


def train_together(
    network: Network,
    hospitals: Sequence[Patients],
    seed: int,
    aggregate: Aggregate,
    *,
    privacy: Privacy | None = None,
    poisoner: int | None = None,
    poison: Poison | None = None,
) -> Vector:
    """Return the model of a federation of these hospitals."""
    generator = np.random.default_rng(seed)
    model = network.initial(generator)
    counts = [len(patients) for patients in hospitals]
    for number in range(ROUNDS):
        deltas = np.stack([train(network, model, patients, privacy, generator) for patients in hospitals])
        if poisoner is not None and poison is not None:
            deltas[poisoner] = poison(deltas[poisoner], np.delete(deltas, poisoner, axis=0))
        model = model + aggregate(deltas, counts, (seed * ROUNDS + number).to_bytes(32, "big"))
    return model


def flip_labels(patients: Patients) -> Patients:
    """Return the patients, the ill called healthy and the healthy ill."""
    return Patients(patients.features, 1 - patients.labels)


def scores(network: Network, model: Vector, patients: Patients) -> Vector:
    """Return the probability of illness by patient."""
    return softmax(network.scores(model[None], patients.features[None])[-1])[0, :, 1]
