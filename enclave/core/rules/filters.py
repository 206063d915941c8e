"""Filters: which updates are left out before anything is combined, by norm and direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from enclave.core.rules.part import Need, Part, Registry, minority, parameter
from enclave.core.rules.span import Matrix, Span, Vector
from qflare_protocol.round_verdicts import COSINE_BELOW_MINIMUM, NORM_ABOVE_BOUND, ROOT_COSINE_BELOW_MINIMUM


@dataclass(frozen=True)
class Sight:
    """What filters see: the updates as a span, and the root update's row where there is one."""

    updates: Span
    root: Span | None = None

    @cached_property
    def norms(self) -> Vector:
        """The (n,) norms of the updates."""
        return self.updates.norms()

    @cached_property
    def norm_ratios(self) -> Vector:
        """Each norm over the median; where the median is zero, 0 for a zero norm, else the largest float."""
        largest = np.finfo(np.float64).max
        median = float(np.median(self.norms))
        if median == 0.0:
            return np.where(self.norms == 0.0, 0.0, largest)
        with np.errstate(over="ignore"):
            return np.minimum(self.norms / median, largest)

    @cached_property
    def cosines(self) -> Matrix:
        """The (n, n) cosines; a zero update has cosine 0 with every other, and the diagonal is 1 or 0."""
        cosines = _cosines(self.updates.gram(), self.norms, self.norms)
        np.fill_diagonal(cosines, (self.norms > 0.0).astype(np.float64))
        return cosines

    @cached_property
    def root_cosines(self) -> Vector:
        """The (n,) cosines with the root update; 0 where there is none."""
        if self.root is None:
            return np.zeros(len(self.updates))
        products = self.updates.joined(self.root).gram()[:-1, -1:]
        return _cosines(products, self.norms, self.root.norms())[:, 0]

    def consensus_cosines(self, members: Sequence[int]) -> Vector:
        """Return the cosine of every update with the sum of the unit updates of `members` other than itself.

        With u_i the unit updates and s their sum over the members: <u_i, s - u_i> = row sum - c_ii and
        |s - u_i|² = |s|² - 2 row sum + c_ii. Where no other is left, or they cancel out, it is 0. Unit
        length takes away the pull that a scaled update would have.
        """
        chosen = list(members)
        rows = self.cosines[:, chosen].sum(axis=1)
        own = np.zeros(len(self.cosines))
        own[chosen] = np.diag(self.cosines)[chosen]
        square = rows[chosen].sum() - 2.0 * own * rows + own
        # Below this the rest cancels out to rounding noise, and a direction of noise is none.
        length = np.sqrt(np.where(square > 1e-9, square, np.inf))
        agreement: Vector = np.clip((rows - own) / length, -1.0, 1.0)
        return agreement


class Filter(Part):
    """A filter: `reason` is what it says of an update that it leaves out."""

    reason: ClassVar[str]
    needs = Need.GRAM
    bounds_norms: ClassVar[bool] = False

    def kept(self, sight: Sight, candidates: Sequence[int]) -> list[int]:
        """Return which of the candidates stay, in their order."""
        raise NotImplementedError

    def tolerates(self, rows: int) -> int:
        """Return the largest minority: medians and the consensus belong to the majority."""
        return minority(rows)


FILTERS: Registry[Filter] = Registry("filter")


@FILTERS.register
@dataclass(frozen=True)
class NormBound(Filter):
    """Leaves out every update whose norm is above `ratio` times the median norm."""

    name = "norm-bound"
    source = "Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019"
    reason = NORM_ABOVE_BOUND
    bounds_norms = True

    ratio: float = parameter(3.0, 1.0, 1000.0)

    def kept(self, sight: Sight, candidates: Sequence[int]) -> list[int]:
        """Return the candidates within the bound."""
        return [index for index in candidates if sight.norm_ratios[index] <= self.ratio]


@FILTERS.register
@dataclass(frozen=True)
class ConsensusCosine(Filter):
    """Leaves out, one at a time, the update that points away most from the sum of the others' directions.

    The one with the lowest cosine falls while that is below `minimum`; ties fall to the first.
    """

    name = "consensus-cosine"
    source = "after the cosine screening of Cao, Fang, Liu, Gong: FLTrust, NDSS 2021, with the consensus as root"
    reason = COSINE_BELOW_MINIMUM

    minimum: float = parameter(0.0, -1.0, 0.99)

    def kept(self, sight: Sight, candidates: Sequence[int]) -> list[int]:
        """Return the candidates that agree with one another."""
        left = list(candidates)
        while left:
            agreement = sight.consensus_cosines(left)[left]
            worst = int(np.argmin(agreement))
            if agreement[worst] >= self.minimum:
                break
            del left[worst]
        return left


@FILTERS.register
@dataclass(frozen=True)
class RootCosine(Filter):
    """Leaves out every update whose cosine with the root device's update is not above `minimum`."""

    name = "root-cosine"
    source = "Cao, Fang, Liu, Gong: FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping, NDSS 2021"
    reason = ROOT_COSINE_BELOW_MINIMUM

    minimum: float = parameter(0.0, -1.0, 0.99)

    def kept(self, sight: Sight, candidates: Sequence[int]) -> list[int]:
        """Return the candidates that agree with the root update."""
        return [index for index in candidates if sight.root_cosines[index] > self.minimum]

    def tolerates(self, rows: int) -> int:
        """Return all but one: what is judged by the root needs no majority."""
        return max(0, rows - 1)


def _cosines(products: Matrix, left: Vector, right: Vector) -> Matrix:
    inverse_left = np.divide(1.0, left, out=np.zeros_like(left), where=left > 0.0)
    inverse_right = np.divide(1.0, right, out=np.zeros_like(right), where=right > 0.0)
    cosines: Matrix = np.clip(products * inverse_left[:, None] * inverse_right[None, :], -1.0, 1.0)
    return cosines
