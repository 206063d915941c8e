"""Accounting for client-level central differential privacy: what the releases of a federation add up to.

One release is a Gaussian mechanism: the sum of one clipped update per device, divided by the public
expected cohort, with noise of standard deviation z times the clip norm on the sum. Neighbouring are
two groups that differ by one device (add or remove), so z is noise over sensitivity.

No amplification by sampling is claimed: a round waits for volunteers, and the server knows who came.
Un-amplified Gaussians compose exactly: releases of z1, z2, ... are one of (sum of 1/z**2)**-0.5
(Dong, Roth, Su, "Gaussian differential privacy", 2022, corollary 3.3), whose epsilon has a closed
form (Balle and Wang, ICML 2018, theorem 8). Google's dp-accounting computes it; its distributions of
the privacy loss give the same by numerical composition in up to gigabytes of memory.
"""

import math
from collections.abc import Iterable

from enclave.core.rules.noise import NOISES, GaussianNoise
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal

LEAST_DELTA, LARGEST_DELTA = 1e-15, 0.01
LEAST_EPSILON, LARGEST_EPSILON = 0.01, 1000.0


OUTSIDE_THE_GUARANTEE = (
    "Not covered by differential privacy: the loss and accuracy that devices report, sample counts, norms, cosines and "
    "verdicts of updates, and who took part. Operators see them without noise."
)


def noise_multiplier_of(policy: AggregationPolicy) -> float | None:
    """Return the noise multiplier z of each release under an aggregation policy; None where it adds no noise."""
    noise = NOISES.make(policy.noise)
    return noise.noise_multiplier if isinstance(noise, GaussianNoise) else None


def precision(noise_multiplier: float) -> float:
    """Return 1/z**2, of which composition takes the sum."""
    return noise_multiplier**-2


def composed(noise_multipliers: Iterable[float]) -> float:
    """Return the noise multiplier of the one release that reveals as much as all of these, of which there is one."""
    return sum(precision(multiplier) for multiplier in noise_multipliers) ** -0.5


def epsilon_of(noise_multipliers: Iterable[float], delta: float) -> float:
    """Return the epsilon at delta that these releases have spent together; 0 for none. Imports dp-accounting."""
    multipliers = list(noise_multipliers)
    if not multipliers:
        return 0.0
    from dp_accounting import get_epsilon_gaussian  # two seconds and 200 MB, which no web process needs

    return float(get_epsilon_gaussian(composed(multipliers), delta))


def least_noise(epsilon: float, delta: float) -> float:
    """Return the noise multiplier of one release that spends this budget and no more. Imports dp-accounting."""
    from dp_accounting import get_sigma_gaussian

    return float(get_sigma_gaussian(epsilon, delta)) * (1 + 1e-9)  # its search ends within 1e-12 on either side


def noise_for(releases: int, epsilon: float, delta: float) -> float:
    """Return the noise multiplier with which that many releases fit a budget. Imports dp-accounting."""
    return least_noise(epsilon, delta) * math.sqrt(releases) * (1 + 1e-9)  # never one less by rounding


def releases_left(spent: Iterable[float], next_noise_multiplier: float, budgets_least_noise: float) -> int:
    """Return how many further releases of z fit a budget; all that is needed is the budget's `least_noise`."""
    left = precision(budgets_least_noise) - sum(precision(multiplier) for multiplier in spent)
    return max(0, math.floor(left / precision(next_noise_multiplier)))


def check_terms(policy: AggregationPolicy, epsilon: float | None, delta: float | None) -> None:
    """Return when a policy and a budget fit one another.

    Raises `Refusal("policy-refused")`: noise demands a delta and may have a budget; without noise
    there is nothing that either could say.
    """
    if noise_multiplier_of(policy) is None:
        if epsilon is not None or delta is not None:
            raise Refusal("policy-refused", "A privacy budget or delta needs a policy that adds noise.")
        return
    if delta is None or not LEAST_DELTA <= delta <= LARGEST_DELTA:
        raise Refusal("policy-refused", f"A policy that adds noise needs a delta of {LEAST_DELTA} to {LARGEST_DELTA}.")
    if epsilon is not None and not LEAST_EPSILON <= epsilon <= LARGEST_EPSILON:
        raise Refusal("policy-refused", f"A privacy budget is an epsilon of {LEAST_EPSILON} to {LARGEST_EPSILON:g}.")
