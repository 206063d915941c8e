"""How a range of the aggregate is made of the same range of the rows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.span import Matrix, Span, Vector

Float32 = NDArray[np.float32]


class ByCoordinate(Protocol):
    """A rule applied to columns; see `enclave.core.rules.coordinate_rules.CoordinateRule`."""

    def combine(self, block: Float32, tolerated: int) -> Float32:
        """Return the (w,) outcome of an (m, w) range of columns."""


class Combination(ABC):
    """A decided way to combine rows; `rows` are those it reads, `reads_centre` whether the last aggregate follows."""

    rows: tuple[int, ...]
    reads_centre: bool = False

    @abstractmethod
    def combine(self, block: Float32) -> Float32:
        """Return the (w,) range of the aggregate for the (k, w) range of its rows, in their order."""

    @abstractmethod
    def shares(self, updates: int) -> Vector:
        """Return each update's part in the outcome, 0 to 1."""


@dataclass(frozen=True)
class LinearCombination(Combination):
    """A weighted sum: one product with a vector. Rows without weight are not read."""

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    reads_centre: bool = False

    @classmethod
    def of(cls, span: Span, outcome: Vector, updates: int) -> "LinearCombination":
        """Return the combination with these coefficients over the span's basis: the updates, then references."""
        weights = outcome.copy()
        if span.pivot is not None:
            weights[span.pivot] -= np.delete(outcome, span.pivot).sum()
        rows = tuple(int(row) for row in np.flatnonzero(weights[:updates]))
        references = weights[updates:]
        reads_centre = bool(references.any())
        kept = [float(weights[row]) for row in rows] + ([float(references[-1])] if reads_centre else [])
        return cls(rows, tuple(kept), reads_centre)

    def combine(self, block: Float32) -> Float32:
        """Return weights · block in float32."""
        outcome: Float32 = np.array(self.weights, dtype=np.float32) @ block
        return outcome

    def shares(self, updates: int) -> Vector:
        """Return the weights' magnitudes."""
        shares = np.zeros(updates)
        for row, weight in zip(self.rows, self.weights, strict=False):
            shares[row] = min(1.0, abs(weight))
        return shares


@dataclass(frozen=True, eq=False)
class CoordinateCombination(Combination):
    """A linear map of the rows, then a rule by coordinate."""

    __hash__ = None  # type: ignore[assignment]

    rows: tuple[int, ...]
    mixing: Matrix
    rule: ByCoordinate
    tolerated: int

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CoordinateCombination)
            and (self.rows, self.rule, self.tolerated) == (other.rows, other.rule, other.tolerated)
            and np.array_equal(self.mixing, other.mixing)
        )

    def combine(self, block: Float32) -> Float32:
        """Return the rule's outcome on the mixed rows."""
        return self.rule.combine(self._mixed(block), self.tolerated)

    def _mixed(self, block: Float32) -> Float32:
        if self.mixing.shape[0] == self.mixing.shape[1] and np.array_equal(self.mixing, np.eye(len(self.mixing))):
            return block
        mixed: Float32 = self.mixing.astype(np.float32) @ block
        return mixed

    def shares(self, updates: int) -> Vector:
        """Return each update's part in the mean of the mixed rows."""
        shares = np.zeros(updates)
        shares[list(self.rows)] = np.clip(self.mixing.mean(axis=0), 0.0, 1.0)
        return shares
