"""Pre-aggregations: linear maps of the updates, decided on their Gram matrix, that make a rule stand more."""

import math
from dataclasses import dataclass
from typing import ClassVar

import blake3
import numpy as np

from enclave.core.rules.part import Need, Part, Registry, minority, parameter
from enclave.core.rules.span import Matrix, Span, Vector


class PreAggregation(Part):
    """A map of m rows to k rows; `bounds_norms` says that no attacker's row comes out longer than honest rows are."""

    needs = Need.GRAM
    bounds_norms: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    """Whether a row that comes out is made of several that went in."""

    def weights(self, rows: Span, tolerated: int, seed: bytes) -> Matrix:
        """Return the (k, m) map for rows of which `tolerated` may be attackers'; the seed is 32 secret bytes."""
        raise NotImplementedError

    def tolerates(self, rows: int) -> int:
        """Return the largest minority."""
        return minority(rows)


PRE_AGGREGATIONS: Registry[PreAggregation] = Registry("pre-aggregation")


def clip(norms: Vector, radius: float) -> Matrix:
    """Return the diagonal map that shortens every row to at most the radius."""
    factors = np.divide(radius, norms, out=np.ones_like(norms), where=norms > radius)
    return np.diag(factors)


@PRE_AGGREGATIONS.register
@dataclass(frozen=True)
class StaticClipping(PreAggregation):
    """Shortens every update to at most `radius`."""

    name = "static-clipping"
    source = "McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018"
    bounds_norms = True

    radius: float = parameter(1.0, 1e-9, 1e9)

    def weights(self, rows: Span, tolerated: int, seed: bytes) -> Matrix:
        """Return the diagonal map."""
        return clip(rows.norms(), self.radius)

    def tolerates(self, rows: int) -> int:
        """Return all: the radius does not depend on any update."""
        return rows


@PRE_AGGREGATIONS.register
@dataclass(frozen=True)
class MedianClipping(PreAggregation):
    """Shortens every update to at most `factor` times the median norm."""

    name = "median-clipping"
    source = "Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019; the bound is the median"
    bounds_norms = True

    factor: float = parameter(1.0, 0.01, 100.0)

    def weights(self, rows: Span, tolerated: int, seed: bytes) -> Matrix:
        """Return the diagonal map."""
        norms = rows.norms()
        return clip(norms, self.factor * float(np.median(norms)))


@PRE_AGGREGATIONS.register
@dataclass(frozen=True)
class AdaptiveClipping(PreAggregation):
    """ARC: shortens the ⌊2 (f/m) (m - f)⌋ longest updates to the norm of the next one."""

    name = "adaptive-clipping"
    source = "Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan: Adaptive Gradient Clipping for Robust FL, ICLR 2025"
    bounds_norms = True

    def weights(self, rows: Span, tolerated: int, seed: bytes) -> Matrix:
        """Return the diagonal map."""
        norms = rows.norms()
        clipped = int((2 * tolerated / len(norms)) * (len(norms) - tolerated))
        return clip(norms, float(np.sort(norms)[len(norms) - clipped - 1]))


@PRE_AGGREGATIONS.register
@dataclass(frozen=True)
class NearestNeighbourMixing(PreAggregation):
    """NNM: replaces every update by the mean of the m - f updates nearest to it, itself among them."""

    name = "nnm"
    source = "Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing, AISTATS 2023"
    mixes = True

    def weights(self, rows: Span, tolerated: int, seed: bytes) -> Matrix:
        """Return the map whose rows are means of neighbours; equal distances go to the earlier row."""
        distances = rows.squared_distances()
        count = len(rows) - tolerated
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
        weights = np.zeros_like(distances)
        np.put_along_axis(weights, nearest, 1.0 / count, axis=1)
        return weights


@PRE_AGGREGATIONS.register
@dataclass(frozen=True)
class Bucketing(PreAggregation):
    """Averages buckets of `size` updates drawn by a seed that nobody knew before all updates were committed."""

    name = "bucketing"
    source = "Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, ICLR 2022"
    mixes = True

    size: int = parameter(2, 1, 1000)

    def weights(self, rows: Span, tolerated: int, seed: bytes) -> Matrix:
        """Return the map whose rows are the buckets' means; the last bucket may be smaller."""
        drawn = sorted(range(len(rows)), key=lambda row: blake3.blake3(seed + row.to_bytes(4, "big")).digest())
        weights = np.zeros((self.rows_left(len(rows)), len(rows)))
        for bucket, start in enumerate(range(0, len(rows), self.size)):
            members = drawn[start : start + self.size]
            weights[bucket, members] = 1.0 / len(members)
        return weights

    def rows_left(self, rows: int) -> int:
        """Return the number of buckets."""
        return -(-rows // self.size)


@PRE_AGGREGATIONS.register
@dataclass(frozen=True)
class QuantileClipping(PreAggregation):
    """Shortens every update to a radius that follows a quantile of the norms, itself learnt with noise.

    The radius begins at `initial_radius`; after a round it is multiplied by
    exp(-learning_rate (b - quantile)), b being the noisy share of updates that were within it.
    `count_noise` is the standard deviation of the noise on their number. It is for differential
    privacy and takes its part of the release's noise multiplier.
    """

    name = "quantile-clipping"
    source = "Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping, NeurIPS 2021"
    bounds_norms = True

    initial_radius: float = parameter(1.0, 1e-9, 1e9)
    quantile: float = parameter(0.5, 0.0, 1.0)
    learning_rate: float = parameter(0.2, 0.0, 10.0)
    count_noise: float = parameter(5.0, 1e-3, 1e6)

    def next_radius(self, radius: float, norms: Vector, expected_cohort: int, normal: float) -> float:
        """Return the next round's radius; `normal` is a standard normal value."""
        within = float(np.sum((norms <= radius) - 0.5)) + self.count_noise * normal
        share = within / expected_cohort + 0.5
        return radius * math.exp(-self.learning_rate * (share - self.quantile))

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """Return the noise multiplier left for the sum: (z⁻² - (2σ_b)⁻²)^(-1/2), Theorem 1 of the paper.

        Infinite where the noise on the count alone is not enough for z.
        """
        left = noise_multiplier**-2 - (2.0 * self.count_noise) ** -2
        return left**-0.5 if left > 0.0 else math.inf

    def tolerates(self, rows: int) -> int:
        """Return all: each update moves the radius by a bounded factor only."""
        return rows
