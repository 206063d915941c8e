"""scikit-learn's handwritten digits, shared out over devices as a federation meets it.

1,797 images of 8 by 8 pixels in 10 classes. One fifth is held back for evaluation; the rest is
shared out by a Dirichlet distribution over classes (Hsu, Qi, Brown 2019), so shards are unlike.
"""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASSES = 10
HELD_OUT_SHARE = 0.2
SMALLEST_SHARD = 20
Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Images as rows of 64 floats in 0 to 1, with their digits."""

    features: Features
    labels: Labels


def held_out(seed: int) -> LabelledImages:
    """Return the fifth that no device sees."""
    return _split(seed)[1]


def shard(index: int, count: int, *, alpha: float, seed: int) -> LabelledImages:
    """Return the part of device `index` of `count`; the parts are disjoint and cover the training data."""
    if not 0 <= index < count:
        raise ValueError(f"The shard must be between 0 and {count - 1}.")
    training = _split(seed)[0]
    rows = _dirichlet_parts(training.labels, count, alpha, np.random.default_rng([seed, count]))[index]
    return LabelledImages(training.features[rows], training.labels[rows])


def _split(seed: int) -> tuple[LabelledImages, LabelledImages]:
    digits = _load_digits()
    features, labels = (digits[:, :-1] / 16.0).astype(np.float32), digits[:, -1].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = round(len(labels) * HELD_OUT_SHARE)
    parts = order[cut:], order[:cut]
    training, evaluation = (LabelledImages(features[rows], labels[rows]) for rows in parts)
    return training, evaluation


def _load_digits() -> npt.NDArray[np.float64]:
    """Return the rows of scikit-learn's own file: 64 pixels from 0 to 16, then the digit.

    The file is read where the package lies, because importing scikit-learn costs a device a second
    and 100 MB that this one table does not need.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("The example's data ship with scikit-learn; install scikit-learn.")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as table:
        return np.loadtxt(table, delimiter=",")


def _dirichlet_parts(
    labels: Labels, count: int, alpha: float, generator: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Draw shares of each class until every part has `SMALLEST_SHARD` rows, or an even tenth of its due."""
    smallest = min(SMALLEST_SHARD, len(labels) // (10 * count))
    while True:
        parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(count)]
        for digit in range(CLASSES):
            rows = generator.permutation(np.flatnonzero(labels == digit))
            cuts = (np.cumsum(generator.dirichlet(np.full(count, alpha)))[:-1] * len(rows)).astype(int)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) for part in parts]
        if min(len(part) for part in joined) >= smallest:
            return joined
