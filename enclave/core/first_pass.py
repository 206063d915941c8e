"""The first pass: every update read once, checked, and reduced to the products that the pipeline decides on.

A `RangeReader` reads one range of the rows. What the readers of all ranges have read is put together
by `see`, and `rows_of` makes of it what the pipeline decides on. Rows are the updates in order of
device id, then the root device's update, then the last aggregate, where there are such.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from enclave.core.carried import CENTRE
from enclave.core.extent import Extent
from enclave.core.inputs import Candidate, detail_of
from enclave.core.rows import FirstReading, SealedRows
from enclave.core.rules.gram import GramAccumulator, about, pivot_of, sum_segments
from enclave.core.rules.pipeline import Pipeline, Rows, needs_gram
from enclave.core.rules.span import Matrix, Span
from enclave.core.sources import Sources
from enclave.core.staleness import sample_weights
from enclave.core.streams import Float32, OpenRow
from qflare_protocol.errors import Refusal
from qflare_protocol.round_verdicts import UpdateVerdict


@dataclass(frozen=True)
class Reading:
    """What one range of all rows comes to: the (m, m) products of each segment, and which rows failed a check."""

    segments: list[Matrix]
    refusals: dict[int, Refusal]


@dataclass(frozen=True)
class Sight:
    """Which rows have to be read again, as differences from row `pivot`."""

    rows: tuple[int, ...]
    pivot: int


@dataclass(frozen=True)
class Seen:
    """What the first pass saw: who passed the input checks, the products of the rows left, and the verdicts on others.

    The root device's update, where the policy names one, is among the verdicts: it enters no model.
    `sight` is there where the rows lie so close together that they have to be read again.
    """

    survivors: list[Candidate]
    references: int
    products: Matrix
    verdicts: list[UpdateVerdict]
    sight: Sight | None = field(default=None)


class RangeReader:
    """Reads one range of the candidates of one round."""

    def __init__(self, sources: Sources, pipeline: Pipeline, extent: Extent, candidates: Sequence[Candidate]) -> None:
        self._sources, self._pipeline, self._extent = sources, pipeline, extent
        updates, root = parted(pipeline, candidates)
        centre = sources.carried(CENTRE, extent) if pipeline.carries_centre else None
        self._openers: list[OpenRow] = [sources.update(one, extent) for one in (*updates, *([root] if root else []))]
        self._openers += [centre] if centre else []

    def read(self, take_block: Callable[[Float32], None] | None = None) -> Reading:
        """Return what all rows come to; `take_block` is given every block of them, as long as no row has failed."""
        self._check_state()
        with_gram = needs_gram(self._pipeline)
        reading = FirstReading(self._openers, self._extent.columns, with_gram=with_gram, take_block=take_block)
        return Reading(reading.segments(), reading.refusals)

    def _check_state(self) -> None:
        """Read the optimiser's state to its end: what is wrong with it is known before anything leaves."""
        openers = self._sources.state_rows(self._pipeline.server_optimiser.state, self._extent)
        for _ in SealedRows(openers, self._extent.columns).blocks(range(len(openers))):
            pass

    def read_again(self, sight: Sight) -> list[Matrix]:
        """Return the products by segment of the differences between rows that have passed the checks.

        Raises `Refusal("enclave-failed")` when a source changes between its readings.
        """
        source = SealedRows([self._openers[row] for row in sight.rows], self._extent.columns)
        accumulator = GramAccumulator(len(source), self._extent.columns.size)
        try:
            for block in source.blocks(range(len(source))):
                accumulator.add(about(block, sight.pivot))
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"A source changed between its readings: {refusal.detail}") from refusal
        return accumulator.segments


def parted(pipeline: Pipeline, candidates: Sequence[Candidate]) -> tuple[list[Candidate], Candidate | None]:
    """Return the updates and the root device's update. Raises `Refusal("too-few-updates")` where that is missing."""
    device_id = pipeline.policy.root_device_id
    if device_id is None:
        return list(candidates), None
    for candidate in candidates:
        if candidate.device_id == device_id:
            return [one for one in candidates if one is not candidate], candidate
    raise Refusal("too-few-updates", "The root device, whose update all are compared with, sent none that holds.")


def see(pipeline: Pipeline, candidates: Sequence[Candidate], readings: Sequence[Reading]) -> Seen:
    """Return what the readings of all ranges, in order, come to. An update that failed in one range is out of all.

    Raises `Refusal`: "too-few-updates" or "carried-rows-lost" for a reference or a history that cannot be
    read, "enclave-failed" for readings of different rows.
    """
    updates, root = parted(pipeline, candidates)
    segments = [segment for reading in readings for segment in reading.segments]
    if len({segment.shape for segment in segments}) != 1:
        raise Refusal("enclave-failed", "The ranges were read with different rows.")
    refusals: dict[int, Refusal] = {}
    for reading in reversed(readings):
        refusals.update(reading.refusals)
    _require_references(refusals, len(updates), root)
    kept = [row for row in range(len(segments[0])) if row not in refusals]
    survivors = [updates[row] for row in kept if row < len(updates)]
    products = sum_segments(segments)[np.ix_(kept, kept)]
    verdicts = [updates[row].verdict(one.code, detail_of(one), None) for row, one in sorted(refusals.items())]
    verdicts += [root.verdict(None, None, None)] if root else []
    pivot = None
    if needs_gram(pipeline) and len(survivors) >= pipeline.policy.minimum_updates:
        pivot = pivot_of(len(survivors), products)
    sight = None if pivot is None else Sight(tuple(kept), pivot)
    return Seen(survivors, len(kept) - len(survivors), products, verdicts, sight)


def rows_of(pipeline: Pipeline, seen: Seen, again: Sequence[Matrix], *, seed: bytes, radius: float | None) -> Rows:
    """Return what the pipeline decides on; `again` are the segments of the second look, where one was needed."""
    if seen.sight is None:
        span = Span.of_gram(seen.products)
    else:
        span = Span.about_pivot(sum_segments(again), seen.sight.pivot)
    updates = len(seen.survivors)
    has_root = pipeline.policy.root_device_id is not None
    return Rows(
        updates=span.take(list(range(updates))),
        samples=sample_weights(seen.survivors, pipeline.policy),
        seed=seed,
        root=span.take([updates]) if has_root else None,
        centre=span.take([len(span) - 1]) if seen.references > int(has_root) else None,
        radius=radius,
    )


def _require_references(refusals: dict[int, Refusal], updates: int, root: Candidate | None) -> None:
    """Raise what is wrong with a reference row: a round cannot do without it, as it can without an update."""
    for row, refusal in sorted(refusals.items()):
        if refusal.code == "carried-rows-lost":
            raise refusal
        if row >= updates:
            what = "root device's update" if root and row == updates else "last aggregate"
            raise Refusal("too-few-updates", f"The {what} cannot be read: {refusal.detail}")
