"""The accountant of the study: Gaussian mechanisms without sampling, where a closed form is exact."""

import math
from statistics import NormalDist

_PHI = NormalDist().cdf


def delta_of(epsilon: float, mu: float) -> float:
    """Return the delta at epsilon of a Gaussian mechanism with sensitivity / deviation = mu.

    Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, Theorem 8.
    """
    return _PHI(mu / 2 - epsilon / mu) - math.exp(epsilon) * _PHI(-mu / 2 - epsilon / mu)


def noise_multiplier(epsilon: float, delta: float, releases: int) -> float:
    """Return the deviation, as a multiple of the sensitivity, that makes so many releases (epsilon, delta) together.

    T Gaussian mechanisms with multiplier z compose to one with z / sqrt(T) (Dong, Roth, Su 2022, Corollary 3.3).
    """
    low, high = 1e-6, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(epsilon, middle) <= delta else (low, middle)
    return math.sqrt(releases) / low
