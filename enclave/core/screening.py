"""Deciding which updates enter the mean, from their Gram matrix alone.

G = X Xᵀ over the n deltas as rows of X says everything needed: norms are the roots of its diagonal,
and the consensus of the others, the sum of their unit-normalised deltas, has products with every
update that are sums of entries of the cosine matrix. Unit length takes away the pull that a scaled
update would have; the cost is O(n²) a step and does not depend on the size of the model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.round_result import COSINE_BELOW_MINIMUM, NORM_ABOVE_BOUND

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class ScreenedUpdate:
    """What the screening saw of one update; `reason` is None for an accepted one."""

    norm: float
    norm_ratio: float
    cosine: float
    reason: str | None


def screen(gram: Matrix, policy: AggregationPolicy) -> list[ScreenedUpdate]:
    """Return the verdict for each row of the n×n Gram matrix, whose rows stand in order of device id.

    First every norm above `maximum_norm_ratio` times the median norm falls. Then, one at a time,
    the update with the lowest cosine to the consensus of the others remaining falls while that is
    below `minimum_cosine`; ties fall to the lower device id. The cosine kept of a fallen update is
    the one to those accepted in the end.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    ratios = norm_ratios(norms)
    cosines = cosine_matrix(gram, norms)
    kept = [int(i) for i in np.flatnonzero(ratios <= policy.maximum_norm_ratio)]
    accepted = _drop_outliers(cosines, kept, policy.minimum_cosine)
    agreement = consensus_cosines(cosines, accepted)
    return [
        ScreenedUpdate(float(norms[i]), float(ratios[i]), float(agreement[i]), _reason(i, kept, accepted))
        for i in range(len(norms))
    ]


def norm_ratios(norms: Matrix) -> Matrix:
    """Return each norm over the median norm; where the median is zero, 0 for a zero norm, else the largest float."""
    median = float(np.median(norms)) if len(norms) else 0.0
    if median == 0.0:
        return np.where(norms == 0.0, 0.0, np.finfo(np.float64).max)
    with np.errstate(over="ignore"):
        return np.minimum(norms / median, np.finfo(np.float64).max)


def cosine_matrix(gram: Matrix, norms: Matrix) -> Matrix:
    """Return the n×n cosines; a zero update has cosine 0 with every other, and the diagonal is 1 or 0."""
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0)
    cosines = np.clip(gram * inverse[:, None] * inverse[None, :], -1.0, 1.0)
    np.fill_diagonal(cosines, (norms > 0.0).astype(np.float64))
    return cosines


def consensus_cosines(cosines: Matrix, members: list[int]) -> Matrix:
    """Return the cosine of every update with the sum of the unit deltas of `members` other than itself.

    With u_i the unit deltas and s their sum over the members: <u_i, s - u_i> = row sum - c_ii and
    |s - u_i|² = |s|² - 2 row sum + c_ii. Where no other is left, or they cancel out, it is 0.
    """
    rows = cosines[:, members].sum(axis=1)
    own = np.zeros(len(cosines))
    own[members] = np.diag(cosines)[members]
    square = rows[members].sum() - 2.0 * own * rows + own
    # Below this the rest cancels out to rounding noise, and a direction of noise is none.
    length = np.sqrt(np.where(square > 1e-9, square, np.inf))
    agreement: Matrix = np.clip((rows - own) / length, -1.0, 1.0)
    return agreement


def _drop_outliers(cosines: Matrix, kept: list[int], minimum_cosine: float) -> list[int]:
    kept = list(kept)
    while kept:
        agreement = consensus_cosines(cosines, kept)[kept]
        worst = int(np.argmin(agreement))
        if agreement[worst] >= minimum_cosine:
            break
        del kept[worst]
    return kept


def _reason(index: int, kept: list[int], accepted: list[int]) -> str | None:
    if index not in kept:
        return NORM_ABOVE_BOUND
    return None if index in accepted else COSINE_BELOW_MINIMUM
