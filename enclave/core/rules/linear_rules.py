"""Rules whose outcome is a weighted sum of the updates: the weights come from the Gram matrix alone."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from enclave.core.rules.part import Need, Part, Registry, minority, parameter
from enclave.core.rules.span import Matrix, Span, Vector


class Rule(Part):
    """What makes one update of many; either `LinearRule` or `enclave.core.rules.coordinate_rules.CoordinateRule`."""

    starts_from_last_aggregate: ClassVar[bool] = False
    weighs_samples: ClassVar[bool] = False


class LinearRule(Rule):
    """A rule that is a weighted sum."""

    needs = Need.GRAM

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the outcome's (b,) coefficients over the span's basis.

        - tolerated: how many of the rows may be attackers'.
        - start: the (b,) coefficients of the point where an iteration begins; zeros: the origin.
        - samples: the (m,) claimed sample counts of the rows.
        """
        raise NotImplementedError


RULES: Registry[Rule] = Registry("rule")


@RULES.register
@dataclass(frozen=True)
class WeightedMean(LinearRule):
    """FedAvg: the mean weighted by claimed sample counts. It stands no attacker: who claims more weighs more."""

    name = "weighted-mean"
    source = "McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning, AISTATS 2017"
    needs = Need.NOTHING
    weighs_samples = True

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the weighted mean's coefficients."""
        mean: Vector = (samples / samples.sum()) @ rows.coefficients
        return mean

    def tolerates(self, rows: int) -> int:
        """Return none."""
        return 0


@RULES.register
@dataclass(frozen=True)
class Mean(LinearRule):
    """The mean with equal weights. Alone it stands no attacker; after clipping each pulls by at most its bound."""

    name = "mean"
    source = "the arithmetic mean"
    needs = Need.NOTHING

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the mean's coefficients."""
        mean: Vector = rows.coefficients.mean(axis=0)
        return mean

    def tolerates(self, rows: int) -> int:
        """Return none."""
        return 0


@RULES.register
@dataclass(frozen=True)
class Krum(LinearRule):
    """The update with the smallest sum of squared distances to its m - f - 1 nearest others.

    The number of neighbours is that of Allouah et al. (AISTATS 2023), which needs f < m/2 only; the
    paper of 2017 counts one fewer.
    """

    name = "krum"
    source = "Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries, NeurIPS 2017"

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the chosen row's coefficients; of equal scores the earlier row's."""
        chosen: Vector = rows.coefficients[int(np.argmin(krum_scores(rows.squared_distances(), tolerated)))]
        return chosen

    def tolerates(self, rows: int) -> int:
        """Return the largest minority."""
        return minority(rows)


@RULES.register
@dataclass(frozen=True)
class MultiKrum(LinearRule):
    """The mean of the m - f updates with the best Krum scores."""

    name = "multi-krum"
    source = "Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries, NeurIPS 2017"

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the coefficients of the chosen rows' mean."""
        scores = krum_scores(rows.squared_distances(), tolerated)
        chosen = np.argsort(scores, kind="stable")[: len(rows) - tolerated]
        mean: Vector = rows.coefficients[np.sort(chosen)].mean(axis=0)
        return mean

    def tolerates(self, rows: int) -> int:
        """Return the largest minority."""
        return minority(rows)


@RULES.register
@dataclass(frozen=True)
class GeometricMedian(LinearRule):
    """The point with the smallest sum of distances to the updates, by the smoothed Weiszfeld iteration from the origin.

    `smoothing` is the least distance that is divided by, as a part of the median distance at the start.
    """

    name = "geometric-median"
    source = "Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning, IEEE TSP 2022"

    iterations: int = parameter(32, 1, 1000)
    smoothing: float = parameter(1e-6, 1e-12, 1.0)

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the point's coefficients."""
        least = self.smoothing * float(np.median(rows.norms()))
        return weiszfeld(rows, least or 1.0, self.iterations)

    def tolerates(self, rows: int) -> int:
        """Return the largest minority."""
        return minority(rows)


@RULES.register
@dataclass(frozen=True)
class CenteredClipping(LinearRule):
    """Moves from the last round's aggregate by the mean of the updates' differences from it, each clipped.

    `radius` is the length that a difference keeps at most, as a multiple of the median difference's,
    or in absolute terms where `absolute_radius` is not zero. Every attacker moves the outcome by at
    most radius / m per iteration, so it is bounded for any minority; the paper proves its rate of
    convergence for less than a tenth.
    """

    name = "centered-clipping"
    source = "Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization, ICML 2021"
    starts_from_last_aggregate = True

    radius: float = parameter(1.0, 0.001, 1000.0)
    absolute_radius: float = parameter(0.0, 0.0, 1e9)
    iterations: int = parameter(3, 1, 100)

    def weights(self, rows: Span, tolerated: int, start: Vector, samples: Vector) -> Vector:
        """Return the centre's coefficients after the last iteration."""
        centre = start
        for _ in range(self.iterations):
            distances = rows.distances_to(centre)
            radius = self.absolute_radius or self.radius * float(np.median(distances))
            factors = np.divide(radius, distances, out=np.ones_like(distances), where=distances > radius)
            centre = centre + (factors @ rows.coefficients - factors.sum() * centre) / len(rows)
        return centre

    def tolerates(self, rows: int) -> int:
        """Return the largest minority."""
        return minority(rows)


def krum_scores(squared_distances: Matrix, tolerated: int) -> Vector:
    """Return each row's sum of squared distances to its m - f - 1 nearest others."""
    nearest = np.sort(squared_distances, axis=1)[:, 1 : max(2, len(squared_distances) - tolerated)]
    scores: Vector = nearest.sum(axis=1)
    return scores


def weiszfeld(rows: Span, least_distance: float, iterations: int) -> Vector:
    """Return the coefficients of the smoothed geometric median, from the origin."""
    point = np.zeros(rows.coefficients.shape[1])
    for _ in range(iterations):
        pull = 1.0 / np.maximum(rows.distances_to(point), least_distance)
        point = (pull / pull.sum()) @ rows.coefficients
    return point
