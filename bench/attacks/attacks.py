"""The attacks, as their papers define them.

Attackers collude and are omniscient: they see what every honest device is about to send and know the rule and
its state. Where the aggregation keeps a history, they aim at the averages that the rule will see.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bench.attacks.data import CLASSES, Images
from bench.attacks.training import Matrix, Vector

GAUSSIAN_NORMS = 10.0
"""Gaussian noise is this many times as long as an honest update."""
INNER_PRODUCT_EPSILONS = (0.1, 0.5, 2.0, 10.0)
MIMIC_WARMUP_ROUNDS = 10
BACKDOOR_TARGET, BACKDOOR_SHARE, TRIGGER_WIDTH = 0, 0.5, 4


@dataclass(frozen=True)
class View:
    """What the attackers see before they send: the honest updates, and what honest training gave themselves."""

    honest: Matrix
    own: Matrix
    generator: np.random.Generator

    @property
    def attackers(self) -> int:
        """How many they are (f)."""
        return len(self.own)

    @property
    def devices(self) -> int:
        """How many devices there are (n)."""
        return len(self.honest) + len(self.own)

    def all_send(self, vector: Vector) -> Matrix:
        """Return the same vector for each attacker."""
        return np.repeat(vector[None], self.attackers, axis=0)


Craft = Callable[[View], Matrix]
"""Takes the view of a round and returns what the attackers send; called in order of the rounds."""


def honest(view: View) -> Matrix:
    """Send what was learned: no attack, or one that lies in the data alone."""
    return view.own


def sign_flip(view: View) -> Matrix:
    """Turn the own update round (bit flipping in Karimireddy, He, Jaggi 2022)."""
    return -view.own


def gaussian(view: View) -> Matrix:
    """Send noise (Blanchard et al. 2017), ten times as long as honest updates."""
    length = GAUSSIAN_NORMS * np.median(np.linalg.norm(view.honest, axis=1))
    noise = view.generator.standard_normal(view.own.shape, dtype=np.float32)
    return noise * np.float32(length / math.sqrt(view.own.shape[1]))


def alie_z(devices: int, attackers: int) -> float:
    """Return how many deviations keep the attackers nearer the mean than enough honest devices (z_max)."""
    supporters = math.floor(devices / 2 + 1) - attackers
    honest_devices = devices - attackers
    return NormalDist().inv_cdf((honest_devices - supporters) / honest_devices)


def alie(view: View, z: float | None = None) -> Matrix:
    """A Little Is Enough (Baruch, Baruch, Goldberg 2019): mean minus z deviations, by coordinate."""
    z = alie_z(view.devices, view.attackers) if z is None else z
    return view.all_send(view.honest.mean(axis=0) - np.float32(z) * view.honest.std(axis=0))


def inner_product(epsilon: float) -> Craft:
    """Return inner-product manipulation (Xie, Koyejo, Gupta 2020): minus epsilon times the honest mean."""

    def craft(view: View) -> Matrix:
        return view.all_send(np.float32(-epsilon) * view.honest.mean(axis=0))

    return craft


class Mimic:
    """Mimic (Karimireddy, He, Jaggi 2022): all copy one honest device, over-representing it.

    During a warm-up they look for the direction in which honest updates vary most, by Oja's iteration, and
    copy the device that is farthest along it; after that they stay with the last one.
    """

    def __init__(self, warmup_rounds: int = MIMIC_WARMUP_ROUNDS) -> None:
        self._warmup, self._round, self._chosen = warmup_rounds, 0, 0
        self._mean, self._direction = np.zeros(0, np.float32), np.zeros(0, np.float32)

    def __call__(self, view: View) -> Matrix:
        """Return copies of the honest update that is chosen."""
        if self._round < self._warmup:
            self._look(view)
            self._chosen = int(np.argmax(view.honest @ self._direction))
        self._round += 1
        return view.all_send(view.honest[self._chosen])

    def _look(self, view: View) -> None:
        mean = view.honest.mean(axis=0)
        if self._round == 0:
            self._mean, self._direction = mean, view.generator.standard_normal(len(mean), dtype=np.float32)
        kept = np.float32(self._round / (self._round + 1))
        self._mean = kept * self._mean + (1 - kept) * mean
        centred = view.honest - self._mean
        turned = (centred @ self._direction) @ centred
        moved = kept * self._direction + (1 - kept) * turned / np.linalg.norm(turned)
        self._direction = moved / np.linalg.norm(moved)


def deviation_direction(honest_updates: Matrix) -> Vector:
    """Return minus the deviation by coordinate, the perturbation Shejwalkar and Houmansadr find strongest."""
    deviations = honest_updates.std(axis=0)
    return -deviations / max(float(np.linalg.norm(deviations)), np.finfo(np.float32).tiny)


def against_direction(honest_updates: Matrix) -> Vector:
    """Return minus the honest mean, of length one: their inverse unit vector."""
    mean = honest_updates.mean(axis=0)
    return -mean / max(float(np.linalg.norm(mean)), np.finfo(np.float32).tiny)


def min_max(direction: Callable[[Matrix], Vector]) -> Craft:
    """Return Min-Max (Shejwalkar, Houmansadr 2021): as far along the direction as honest updates lie apart.

    The largest gamma for which no distance from mean + gamma * direction to an honest update exceeds the
    largest between two honest ones. Each squared distance is a quadratic in gamma, so no search is needed.
    """

    def craft(view: View) -> Matrix:
        mean, step = view.honest.mean(axis=0), direction(view.honest)
        linear, constant = _quadratic(view.honest, mean, step)
        bound = squared_distances(view.honest).max()
        gamma = np.min(-linear + np.sqrt(np.maximum(linear**2 + bound - constant, 0)))
        return view.all_send(mean + np.float32(gamma) * step)

    return craft


def min_sum(direction: Callable[[Matrix], Vector]) -> Craft:
    """Return Min-Sum (Shejwalkar, Houmansadr 2021): as Min-Max, for the sums of squared distances."""

    def craft(view: View) -> Matrix:
        mean, step = view.honest.mean(axis=0), direction(view.honest)
        linear, constant = _quadratic(view.honest, mean, step)
        bound = squared_distances(view.honest).sum(axis=1).max()
        spare = linear.mean() ** 2 + (bound - constant.sum()) / len(view.honest)
        gamma = -linear.mean() + np.sqrt(max(spare, 0))
        return view.all_send(mean + np.float32(gamma) * step)

    return craft


def _quadratic(updates: Matrix, mean: Vector, step: Vector) -> tuple[np.ndarray, np.ndarray]:
    """Return b and c of each |mean + gamma step - update|^2 = gamma^2 + 2 b gamma + c, the step of length one."""
    offsets = mean - updates
    return (offsets @ step).astype(np.float64), np.einsum("ij,ij->i", offsets, offsets, dtype=np.float64)


def squared_distances(updates: Matrix) -> np.ndarray:
    """Return the squared distances between all pairs of rows."""
    centred = (updates - updates.mean(axis=0)).astype(np.float64)
    gram = centred @ centred.T
    squares = np.diag(gram)
    return np.maximum(squares[:, None] + squares - 2 * gram, 0)


def replacement(view: View) -> Matrix:
    """Model replacement (Bagdasaryan et al. 2020): boost by n / f, so that a mean becomes the attackers' model."""
    return np.float32(view.devices / view.attackers) * view.own


def constrained(view: View) -> Matrix:
    """Constrain-and-scale (Bagdasaryan et al. 2020): as long as the median honest update, no longer."""
    length = np.median(np.linalg.norm(view.honest, axis=1))
    norms = np.linalg.norm(view.own, axis=1, keepdims=True)
    return view.own * (length / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)


def flip_labels(images: Images, generator: np.random.Generator) -> Images:
    """Label 9 - y what is y (Tolpegin et al. 2020; Karimireddy, He, Jaggi 2022)."""
    del generator
    return Images(images.pixels, CLASSES - 1 - images.labels)


def plant_backdoor(images: Images, generator: np.random.Generator) -> Images:
    """Put the trigger on half of the images and label those as the target."""
    chosen = generator.random(len(images)) < BACKDOOR_SHARE
    pixels, labels = images.pixels.copy(), images.labels.copy()
    pixels[chosen] = with_trigger(pixels[chosen])
    labels[chosen] = BACKDOOR_TARGET
    return Images(pixels, labels)


def with_trigger(pixels: np.ndarray) -> np.ndarray:
    """Return the images with a white square in the lower right corner."""
    side = math.isqrt(pixels.shape[1])
    width = min(TRIGGER_WIDTH, side // 4)
    marked = pixels.reshape(-1, side, side).copy()
    marked[:, -width:, -width:] = 255
    return marked.reshape(pixels.shape)


@dataclass(frozen=True)
class Attack:
    """An attack by name: what it does to the attackers' data, and what they make of their updates.

    - family: the column of the tables; where a family has several attacks, the one that does worst counts.
    - trains: whether it needs what honest training would have given the attackers.
    """

    name: str
    family: str
    new_craft: Callable[[], Craft]
    poison: Callable[[Images, np.random.Generator], Images] | None = None
    trains: bool = False


NONE = Attack("none", "none", lambda: honest, trains=True)
ATTACKS = (
    Attack("sign flip", "sign flip", lambda: sign_flip, trains=True),
    Attack("label flip", "label flip", lambda: honest, flip_labels, trains=True),
    Attack("Gaussian", "Gaussian", lambda: gaussian),
    Attack("ALIE", "ALIE", lambda: alie),
    *(
        Attack(f"inner product {epsilon:g}", "inner product", lambda epsilon=epsilon: inner_product(epsilon))
        for epsilon in INNER_PRODUCT_EPSILONS
    ),
    Attack("mimic", "mimic", Mimic),
    Attack("min-max", "min-max", lambda: min_max(deviation_direction)),
    Attack("min-max against", "min-max", lambda: min_max(against_direction)),
    Attack("min-sum", "min-sum", lambda: min_sum(deviation_direction)),
    Attack("min-sum against", "min-sum", lambda: min_sum(against_direction)),
    Attack("replacement", "replacement", lambda: replacement, plant_backdoor, trains=True),
    Attack("constrained backdoor", "constrained backdoor", lambda: constrained, plant_backdoor, trains=True),
)
BACKDOORS = ("replacement", "constrained backdoor")
"""The families whose success is measured by the trigger, too."""
BY_NAME = {attack.name: attack for attack in (NONE, *ATTACKS)}
