"""The first pass: every update read once, checked, and reduced to the products that the pipeline decides on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclave.core.carried import CENTRE, RADIUS
from enclave.core.inputs import Candidate, detail_of
from enclave.core.rows import FirstReading, SealedRows
from enclave.core.rules.gram import look
from enclave.core.rules.pipeline import Pipeline, Rows, needs_gram
from enclave.core.rules.span import Matrix, Span
from enclave.core.sources import Sources
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import UpdateVerdict
from qflare_protocol.tensors import TensorLayout


@dataclass(frozen=True)
class Seen:
    """What the first pass saw: who passed the input checks, their rows, and the verdicts on the others.

    The root device's update, where the policy names one, is among the verdicts: it enters no model.
    """

    survivors: list[Candidate]
    rows: Rows
    verdicts: list[UpdateVerdict]


class FirstPass:
    """Reads the candidates of one round."""

    def __init__(self, sources: Sources, pipeline: Pipeline, layout: TensorLayout) -> None:
        self._sources = sources
        self._pipeline = pipeline
        self._layout = layout

    def run(self, candidates: Sequence[Candidate], seed: bytes) -> Seen:
        """Return what was seen.

        Raises `Refusal`: "too-few-updates" where the root device's update is missing, "carried-rows-lost"
        for a carried row that does not open, "enclave-failed" when a source changes between readings.
        """
        self._check_state()
        root = self._root_of(candidates)
        updates = [candidate for candidate in candidates if candidate is not root]
        centre = self._sources.carried(CENTRE, self._layout.size) if self._pipeline.carries_centre else None
        openers = [self._sources.update(candidate, self._layout) for candidate in (*updates, *([root] if root else []))]
        openers += [centre] if centre else []
        reading = FirstReading(openers, self._layout.size, with_gram=needs_gram(self._pipeline))
        products = reading.products()
        _require_references(reading, len(updates), root)
        survivors = [updates[index] for index in reading.survivors if index < len(updates)]
        source = SealedRows([openers[index] for index in reading.survivors], self._layout.size)
        span = self._span(source, len(survivors), products)
        rows = Rows(
            updates=span.take(list(range(len(survivors)))),
            samples=np.array([one.manifest.sample_count for one in survivors], dtype=np.float64),
            seed=seed,
            root=span.take([len(survivors)]) if root else None,
            centre=span.take([len(span) - 1]) if centre else None,
            radius=self._sources.carried_number(RADIUS),
        )
        verdicts = [
            updates[index].verdict(refusal.code, detail_of(refusal), None)
            for index, refusal in reading.refusals.items()
        ]
        return Seen(survivors, rows, verdicts + ([root.verdict(None, None, None)] if root else []))

    def _check_state(self) -> None:
        """Read the optimiser's state to its end: what is wrong with it is known before anything leaves."""
        openers = self._sources.state_rows(self._pipeline.server_optimiser.state, self._layout.size)
        for _ in SealedRows(openers, self._layout.size).blocks(range(len(openers))):
            pass

    def _root_of(self, candidates: Sequence[Candidate]) -> Candidate | None:
        device_id = self._pipeline.policy.root_device_id
        if device_id is None:
            return None
        for candidate in candidates:
            if candidate.device_id == device_id:
                return candidate
        raise Refusal("too-few-updates", "The root device, whose update all are compared with, sent none that holds.")

    def _span(self, source: SealedRows, updates: int, products: Matrix) -> Span:
        if not needs_gram(self._pipeline) or updates < self._pipeline.policy.minimum_updates:
            return Span.of_gram(products)
        try:
            return look(source, updates, len(source) - updates, products)
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"A source changed between its readings: {refusal.detail}") from refusal


def _require_references(reading: FirstReading, updates: int, root: Candidate | None) -> None:
    """Raise what is wrong with a reference row: a round cannot do without it, as it can without an update."""
    for index, refusal in reading.refusals.items():
        if refusal.code == "carried-rows-lost":
            raise refusal
        if index >= updates:
            what = "root device's update" if root and index == updates else "last aggregate"
            raise Refusal("too-few-updates", f"The {what} cannot be read: {refusal.detail}")
