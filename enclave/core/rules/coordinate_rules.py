"""Rules that look at every coordinate alone: median, trimmed mean, mean around the median, Bulyan."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.linear_rules import RULES, Rule, krum_scores
from enclave.core.rules.order_statistics import mean_around_median, middle_mean
from enclave.core.rules.part import Need, minority
from enclave.core.rules.span import Matrix, Span

Float32 = NDArray[np.float32]


class CoordinateRule(Rule):
    """A rule that is applied to one range of columns after another."""

    needs = Need.COORDINATES

    def chosen(self, rows: Span, tolerated: int) -> list[int]:
        """Return which rows take part, decided once over the whole vectors; all, unless a rule says otherwise."""
        return list(range(len(rows)))

    def combine(self, block: Float32, tolerated: int) -> Float32:
        """Return the (w,) outcome of an (m, w) range of columns of the chosen rows."""
        raise NotImplementedError

    def tolerates(self, rows: int) -> int:
        """Return the largest minority."""
        return minority(rows)


@RULES.register
@dataclass(frozen=True)
class CoordinateMedian(CoordinateRule):
    """The median of every coordinate; of an even number of values the mean of the middle two."""

    name = "median"
    source = "Yin, Chen, Kannan, Bartlett: Byzantine-Robust Distributed Learning, ICML 2018"

    def combine(self, block: Float32, tolerated: int) -> Float32:
        """Return the medians."""
        return middle_mean(block, (len(block) - 1) // 2)


@RULES.register
@dataclass(frozen=True)
class TrimmedMean(CoordinateRule):
    """The mean of every coordinate's values without the f largest and the f smallest."""

    name = "trimmed-mean"
    source = "Yin, Chen, Kannan, Bartlett: Byzantine-Robust Distributed Learning, ICML 2018"

    def combine(self, block: Float32, tolerated: int) -> Float32:
        """Return the trimmed means."""
        return middle_mean(block, tolerated)


@RULES.register
@dataclass(frozen=True)
class MeanAroundMedian(CoordinateRule):
    """The mean of the m - f values of every coordinate that lie nearest to its median."""

    name = "meamed"
    source = "Xie, Koyejo, Gupta: Generalized Byzantine-tolerant SGD, 2018"

    def combine(self, block: Float32, tolerated: int) -> Float32:
        """Return the means."""
        return mean_around_median(block, len(block) - tolerated)


@RULES.register
@dataclass(frozen=True)
class Bulyan(CoordinateRule):
    """m - 2f updates chosen by Krum again and again, then the mean of the m - 4f values around each median."""

    name = "bulyan"
    needs = Need.GRAM
    source = "El Mhamdi, Guerraoui, Rouault: The Hidden Vulnerability of Distributed Learning in Byzantium, ICML 2018"

    def chosen(self, rows: Span, tolerated: int) -> list[int]:
        """Return the rows that Krum chooses one after another, each out of those that are left."""
        distances = rows.squared_distances()
        left, chosen = list(range(len(rows))), []
        for _ in range(len(rows) - 2 * tolerated):
            scores = _blanchard_scores(distances[np.ix_(left, left)], tolerated)
            chosen.append(left.pop(int(np.argmin(scores))))
        return sorted(chosen)

    def combine(self, block: Float32, tolerated: int) -> Float32:
        """Return the means."""
        return mean_around_median(block, len(block) - 2 * tolerated)

    def tolerates(self, rows: int) -> int:
        """Return (m - 3) / 4 in whole numbers: it needs 4f + 3 rows."""
        return max(0, (rows - 3) // 4)


def _blanchard_scores(squared_distances: Matrix, tolerated: int) -> Matrix:
    """Return Krum's scores over the k - f - 2 nearest others, of which one at least counts (Blanchard et al. 2017)."""
    neighbours = len(squared_distances) - tolerated - 2
    if neighbours < 1:
        return krum_scores(squared_distances, len(squared_distances) - 2)
    scores: Matrix = np.sort(squared_distances, axis=1)[:, 1 : 1 + neighbours].sum(axis=1)
    return scores
