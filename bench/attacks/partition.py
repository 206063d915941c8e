"""How training data is shared out over devices: unlike by a Dirichlet distribution, or sorted by label."""

import numpy as np
import numpy.typing as npt

from bench.attacks.data import Labels

Rows = npt.NDArray[np.int64]

SMALLEST_PART = 20


def dirichlet_parts(labels: Labels, count: int, alpha: float, generator: np.random.Generator) -> list[Rows]:
    """Share out each class by a draw of Dirichlet(alpha) over the devices (Hsu, Qi, Brown 2019).

    Shares are drawn again until every device has `SMALLEST_PART` rows, or an even tenth of its due where
    there are few. Small alphas make devices unlike: at 0.1 most of them see two or three classes.
    """
    smallest = min(SMALLEST_PART, len(labels) // (10 * count))
    while True:
        parts = _draw(labels, count, alpha, generator)
        if min(map(len, parts)) >= smallest:
            return parts


def _draw(labels: Labels, count: int, alpha: float, generator: np.random.Generator) -> list[Rows]:
    pieces = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(count, alpha))
        pieces.append(np.split(rows, (np.cumsum(shares)[:-1] * len(rows)).astype(int)))
    return [np.concatenate(of_a_device) for of_a_device in zip(*pieces, strict=True)]


def sorted_parts(labels: Labels, count: int) -> list[Rows]:
    """Cut the rows, sorted by label, into equal parts: the heterogeneous split of Karimireddy, He, Jaggi (2022)."""
    return list(np.array_split(np.argsort(labels, kind="stable"), count))
