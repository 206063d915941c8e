"""The pipeline over updates that are one matrix in memory: for benchmarks, simulations and tests.

It decides and combines with the code of the sealed process; only where the rows come from differs.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.gram import gram_of, look
from enclave.core.rules.noise import NOISE_STARTS_AT, standard_normals
from enclave.core.rules.pipeline import Decision, Pipeline, Rows, needs_gram
from enclave.core.rules.span import Span
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS

Float32 = NDArray[np.float32]


class MatrixSource:
    """The rows of an (n, d) float32 matrix and further rows after them."""

    def __init__(self, matrix: Float32, references: Sequence[Float32] = ()) -> None:
        self._matrix = matrix
        self._references = references
        self.size = matrix.shape[1]

    def blocks(self, rows: Sequence[int]) -> Iterator[Float32]:
        """Yield the ranges; those of all rows of the matrix are views of it."""
        whole = list(rows) == list(range(len(self._matrix)))
        for start in range(0, self.size, BLOCK_COLUMNS):
            columns = slice(start, min(start + BLOCK_COLUMNS, self.size))
            yield self._matrix[:, columns] if whole else np.stack([self._row(row)[columns] for row in rows])

    def _row(self, row: int) -> Float32:
        updates = len(self._matrix)
        return self._matrix[row] if row < updates else self._references[row - updates]


class Aggregator:
    """Aggregates round after round under one policy and carries what the policy carries.

    Row i of each round's matrix belongs to the same device. Where the policy names a root device,
    its update is the last row.
    """

    def __init__(self, policy: AggregationPolicy) -> None:
        self.pipeline = Pipeline.of(policy)
        self._policy = policy
        self._history: Float32 | None = None
        self._centre: Float32 | None = None
        self._radius: float | None = None
        self._optimiser_state: dict[str, Float32] = {}

    def aggregate(
        self, deltas: Float32, sample_counts: Sequence[int] | None = None, *, seed: bytes | None = None
    ) -> tuple[Float32, Decision]:
        """Return what is added to the model, (d,) float32, and the decision.

        `deltas` is (n, d) float32 and stays as it is; `seed` are 32 bytes, fresh where not given. Raises
        `Refusal("too-few-updates")`.
        """
        seed = os.urandom(32) if seed is None else seed
        matrix = self._with_history(deltas)
        root = matrix[-1] if self._policy.root_device else None
        updates = matrix[:-1] if root is not None else matrix
        references = [row for row in (root, self._centre) if row is not None]
        source = MatrixSource(updates, references)
        samples = np.ones(len(updates)) if sample_counts is None else np.asarray(sample_counts[: len(updates)], float)
        decision = self.pipeline.decide(self._rows(source, len(updates), root is not None, samples, seed))
        if decision.shortfall:
            raise Refusal("too-few-updates", f"{len(decision.kept)} updates {decision.shortfall}.")
        aggregate = self._combined(source, decision, len(references), seed)
        self._carry(matrix, decision, aggregate)
        return self._stepped(aggregate), decision

    def _with_history(self, deltas: Float32) -> Float32:
        beta = np.float32(self._policy.history)
        if not beta or self._history is None:
            return deltas
        return beta * self._history + (np.float32(1.0) - beta) * deltas

    def _rows(
        self, source: MatrixSource, updates: int, has_root: bool, samples: NDArray[np.float64], seed: bytes
    ) -> Rows:
        references = int(has_root) + int(self._centre is not None)
        if needs_gram(self.pipeline):
            span = look(source, updates, references, gram_of(source, range(updates + references)))
        else:
            span = Span.of_gram(np.zeros((updates, updates)))
        return Rows(
            updates=span.take(list(range(updates))),
            samples=samples,
            seed=seed,
            root=span.take([updates]) if has_root else None,
            centre=span.take([len(span) - 1]) if self._centre is not None and len(span) > updates else None,
            radius=self._radius,
        )

    def _combined(self, source: MatrixSource, decision: Decision, references: int, seed: bytes) -> Float32:
        combination = decision.combination
        rows = list(combination.rows)
        if combination.reads_centre:
            rows.append(len(decision.norms) + references - 1)
        aggregate = np.empty(source.size, dtype=np.float32)
        start = 0
        for block in source.blocks(rows):
            part = combination.combine(block)
            if decision.noise_deviation:
                part = part + (
                    decision.noise_deviation * standard_normals(seed, NOISE_STARTS_AT + start, len(part))
                ).astype(np.float32)
            aggregate[start : start + len(part)] = part
            start += len(part)
        return aggregate

    def _carry(self, matrix: Float32, decision: Decision, aggregate: Float32) -> None:
        if self._policy.history:
            history = matrix if self._history is None else self._history
            left_out = list(decision.reasons)
            kept = history[left_out].copy() if self._history is not None else np.zeros_like(matrix[left_out])
            self._history = matrix.copy()
            self._history[left_out] = kept
        if self.pipeline.carries_centre:
            self._centre = aggregate
        self._radius = decision.next_radius

    def _stepped(self, aggregate: Float32) -> Float32:
        optimiser = self.pipeline.server_optimiser
        if not self._optimiser_state:
            self._optimiser_state = {
                name: np.full(len(aggregate), value, dtype=np.float32) for name, value in optimiser.initial.items()
            }
        return optimiser.step(aggregate, self._optimiser_state)
