"""Vectors known only by what they are made of: rows as linear combinations of others whose products are known.

With B the Gram matrix of some basis vectors and C a matrix of coefficients, the rows C·basis have
the Gram matrix C B Cᵀ, whatever their length. Mixing, clipping and averaging are then products with
small matrices.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """m rows over b basis vectors.

    - coefficients: (m, b), float64.
    - products: (b, b), float64, the basis vectors' Gram matrix. Where `pivot` is a number, that
      basis vector is an update and the others are differences from it: distances between updates
      that lie close together keep their precision, because the pivot cancels out exactly.
    """

    coefficients: Matrix
    products: Matrix
    pivot: int | None = None

    @classmethod
    def of_gram(cls, gram: Matrix) -> Self:
        """Rows that are the basis themselves."""
        return cls(np.eye(len(gram)), gram)

    @classmethod
    def about_pivot(cls, products: Matrix, pivot: int) -> Self:
        """Rows whose differences from row `pivot` are the basis, row `pivot` itself standing in its own place."""
        coefficients = np.eye(len(products))
        coefficients[:, pivot] = 1.0
        return cls(coefficients, products, pivot)

    def __len__(self) -> int:
        return len(self.coefficients)

    def take(self, rows: list[int]) -> "Span":
        """Return some of the rows."""
        return Span(self.coefficients[rows], self.products, self.pivot)

    def mixed(self, weights: Matrix) -> "Span":
        """Return the rows `weights @ rows`; weights is (k, m)."""
        return Span(weights @ self.coefficients, self.products, self.pivot)

    def joined(self, further: "Span") -> "Span":
        """Return these rows followed by others over the same basis."""
        return Span(np.concatenate((self.coefficients, further.coefficients)), self.products, self.pivot)

    def gram(self) -> Matrix:
        """Return the (m, m) products of the rows."""
        gram: Matrix = self.coefficients @ self.products @ self.coefficients.T
        return gram

    def norms(self) -> Vector:
        """Return the (m,) Euclidean norms."""
        return _roots(np.einsum("ij,ij->i", self.coefficients @ self.products, self.coefficients))

    def squared_distances(self) -> Matrix:
        """Return the (m, m) squared Euclidean distances; never negative, zero on the diagonal."""
        coefficients = self.coefficients
        shift = np.zeros(len(coefficients))
        if self.pivot is not None:
            shift = coefficients[:, self.pivot].copy()
            coefficients = coefficients.copy()
            coefficients[:, self.pivot] = 0.0
        gram = coefficients @ self.products @ coefficients.T
        squares = np.diag(gram)
        distances = squares[:, None] + squares[None, :] - 2.0 * gram
        if self.pivot is not None and np.ptp(shift) > 0.0:
            apart = shift[:, None] - shift[None, :]
            along = coefficients @ self.products[:, self.pivot]
            distances += apart**2 * self.products[self.pivot, self.pivot]
            distances += 2.0 * apart * (along[:, None] - along[None, :])
        clamped: Matrix = np.maximum(distances, 0.0)
        np.fill_diagonal(clamped, 0.0)
        return clamped

    def distances_to(self, point: Vector) -> Vector:
        """Return the (m,) distances from the rows to the point with those (b,) coefficients."""
        differences = self.coefficients - point
        return _roots(np.einsum("ij,ij->i", differences @ self.products, differences))


def _roots(squares: Vector) -> Vector:
    roots: Vector = np.sqrt(np.maximum(squares, 0.0))
    return roots
