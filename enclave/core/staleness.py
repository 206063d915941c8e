"""How much less a stale update counts: a factor on its weight, where the rule weighs updates, else on its row.

With the mean weighted by samples an update of n samples weighs as one of n · s(t). Every other rule takes an update as
n-th of equals, or compares it with the others; there the update itself is multiplied by s(t), which is what FedBuff
does (see `qflare_protocol.staleness`). It is done before anything looks at the rows. Since s(t) is at most 1, a row
becomes no longer by it: what filters and clipping promise of bounded norms, and the sensitivity that noise is measured
by, hold as for fresh updates, and nobody gains by claiming to be stale.
"""

from collections.abc import Sequence

import numpy as np

from enclave.core.inputs import Candidate
from enclave.core.rules.pipeline import Pipeline
from enclave.core.rules.span import Vector
from enclave.core.streams import AnyRow, Float32
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.staleness import staleness_factor


class ScaledRow:
    """A row times a factor, element by element."""

    def __init__(self, row: AnyRow, factor: float) -> None:
        self._row, self._factor = row, np.float32(factor)

    def read_into(self, row: Float32) -> None:
        """Fill the contiguous array with the next elements. Raises `Refusal`."""
        self._row.read_into(row)
        row *= self._factor

    def finish(self) -> None:
        """Return when the row has ended as it should. Raises `Refusal`."""
        self._row.finish()


def as_stale(row: AnyRow, candidate: Candidate, policy: AggregationPolicy) -> AnyRow:
    """Return an update's row as it enters the round: itself where it is fresh or where the rule weighs updates."""
    if Pipeline.of(policy).rule.weighs_samples:
        return row
    factor = staleness_factor(candidate.staleness, policy.staleness_exponent)
    return row if factor == 1.0 else ScaledRow(row, factor)


def sample_weights(candidates: Sequence[Candidate], policy: AggregationPolicy) -> Vector:
    """Return the (n,) sample counts as the rule weighs them: those of stale updates count for less."""
    return np.array(
        [one.manifest.sample_count * staleness_factor(one.staleness, policy.staleness_exponent) for one in candidates],
        dtype=np.float64,
    )
