"""One experiment: a federation of simulated devices, some of them attackers, under one aggregation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.attacks.attacks import BACKDOOR_TARGET, Attack, View, with_trigger
from bench.attacks.data import ImageData, Images
from bench.attacks.partition import dirichlet_parts, sorted_parts
from bench.attacks.training import LocalTraining, Matrix, Network, Vector, accuracy, as_features, share_out

Aggregate = Callable[[Matrix, Sequence[int], bytes], Vector]
"""Takes the updates of a round by device, their sample counts and a seed of 32 bytes; returns the new update."""


@dataclass(frozen=True)
class Federation:
    """Who takes part: how many devices, how many of them attackers, and how unlike their data are.

    `alpha` is that of the Dirichlet distribution. Without one, the images are sorted by label and cut into
    parts for the honest devices, and every attacker has all of them, as in Karimireddy, He, Jaggi (2022).
    """

    devices: int = 20
    attackers: int = 4
    alpha: float | None = 0.5
    rounds: int = 60
    hidden: int = 32
    training: LocalTraining = LocalTraining()


@dataclass(frozen=True)
class Outcome:
    """What the last model is worth: accuracy on held-out images, and how often the trigger gives the target."""

    accuracy: float
    backdoor: float


def run(
    data: ImageData, federation: Federation, attack: Attack, aggregate: Aggregate, seed: int, *, beta: float = 0.0
) -> Outcome:
    """Train for all rounds and judge the last model. `beta` is that of the aggregation's history."""
    generator = np.random.default_rng([seed, federation.devices])
    network = Network(data.training.pixels.shape[1], federation.hidden)
    parts = _parts(data.training, federation, generator)
    model = network.initial(generator)
    attackers = Attackers(federation.attackers, attack, beta, np.random.default_rng([seed, 1]))
    parts = attackers.poisoned(parts)
    counts = [len(part) for part in parts]
    with np.errstate(over="ignore", invalid="ignore"):  # a rule that stands nothing lets the model go to infinity
        for number in range(federation.rounds):
            deltas = federation.training.deltas(network, model, attackers.trained(parts), generator)
            deltas = attackers.tamper(deltas)
            if not np.isfinite(deltas).all():
                return Outcome(1 / network.classes, 0.0)
            model = model + aggregate(deltas, counts, number.to_bytes(32, "big"))
        return judge(network, model, data.held_out)


def _parts(images: Images, federation: Federation, generator: np.random.Generator) -> list[Images]:
    if federation.alpha is None:
        honest = federation.devices - federation.attackers
        return share_out(images, sorted_parts(images.labels, honest)) + [images] * federation.attackers
    return share_out(images, dirichlet_parts(images.labels, federation.devices, federation.alpha, generator))


class Attackers:
    """The last f devices. With a history they steer its averages, which they know, and not single updates.

    What they make their attack of are the averages of what everybody trained, themselves included: of their
    own forged ones an attack that boosts would go to infinity by itself.
    """

    def __init__(self, count: int, attack: Attack, beta: float, generator: np.random.Generator) -> None:
        self._count, self._attack, self._generator = count, attack, generator
        self._craft = attack.new_craft()
        self._sent, self._trained = History(beta), History(beta)

    def poisoned(self, parts: list[Images]) -> list[Images]:
        """Return the devices' data, the attackers' as they train on it."""
        if self._attack.poison is None:
            return parts
        honest = len(parts) - self._count
        return parts[:honest] + [self._attack.poison(part, self._generator) for part in parts[honest:]]

    def trained(self, parts: list[Images]) -> list[Images]:
        """Return the parts that are trained on at all: some attacks take nothing from the attackers' own."""
        return parts if self._attack.trains else parts[: len(parts) - self._count]

    def tamper(self, deltas: Matrix) -> Matrix:
        """Return all devices' updates, given those that were trained."""
        if not self._attack.trains:
            deltas = np.concatenate([deltas, np.zeros((self._count, deltas.shape[1]), np.float32)])
        honest = len(deltas) - self._count
        trained = self._trained.take(deltas)
        if self._count:
            crafted = self._craft(View(trained[:honest], trained[honest:], self._generator))
            deltas[honest:] = self._sent.needed(crafted, slice(honest, None))
        self._sent.take(deltas)
        return deltas


class History:
    """Averages per device as the aggregation keeps them: once of what is sent, and once of what was trained."""

    def __init__(self, beta: float) -> None:
        self._beta = np.float32(beta)
        self._averages: Matrix | None = None

    def take(self, deltas: Matrix) -> Matrix:
        """Return the averages with these updates, and keep them."""
        if self._averages is None or not self._beta:
            self._averages = deltas.copy()
        else:
            self._averages = self._beta * self._averages + (1 - self._beta) * deltas
        return self._averages

    def needed(self, averages: Matrix, devices: slice) -> Matrix:
        """Return the updates that make the averages of these devices what they are to be."""
        if self._averages is None or not self._beta:
            return averages
        return (averages - self._beta * self._averages[devices]) / (1 - self._beta)


def judge(network: Network, model: Vector, held_out: Images) -> Outcome:
    """Measure a model on held-out images, clean and with the trigger; images of the target class do not count."""
    if not np.isfinite(model).all():
        return Outcome(1 / network.classes, 0.0)
    clean = accuracy(network, model, as_features(held_out.pixels), held_out.labels)
    others = held_out.labels != BACKDOOR_TARGET
    triggered = as_features(with_trigger(held_out.pixels[others]))
    wanted = np.full(int(others.sum()), BACKDOOR_TARGET)
    return Outcome(clean, accuracy(network, model, triggered, wanted))
