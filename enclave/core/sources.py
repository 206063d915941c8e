"""Where a round's rows come from: the courier's blobs, opened with the round's keys and the federation's seal."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from enclave.core.carried import CarriedSeal, history_name
from enclave.core.chosen import ChosenRow
from enclave.core.extent import Extent
from enclave.core.inputs import Candidate
from enclave.core.keys import RoundKeys
from enclave.core.requests import AggregateRequest
from enclave.core.rows import SealedRows
from enclave.core.staleness import as_stale
from enclave.core.streams import (
    AnyRow,
    AveragedRow,
    Blob,
    DifferenceRow,
    OpenRow,
    Row,
    RowOfColumns,
    new_scratch,
    open_base_model,
    open_part,
    open_update,
)
from qflare_protocol import hpke
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import Columns

BASE_MODEL = 0
"""The source number of the base model; the updates follow from 1, the carried rows after them."""


class Courier(Protocol):
    """What the aggregation needs from outside; the sealed process reaches it over descriptors and its channel."""

    def blob(self, source: int) -> Blob:
        """Return a source, to be read at any place."""

    def write(self, output: str, piece: bytes) -> None:
        """Take the next piece of an output: "model", "sealed-model" or the name of a carried row."""

    def open_sealed_model(self, key: bytes) -> None:
        """Take the key of the output "sealed-model", whose plaintext is the output "model"."""

    def report_step(self, name: str, seconds: float) -> None:
        """Take note of how long a step took."""


class Sources:
    """Opens the rows of one request; everything it gives is read from its start, as often as it is opened."""

    def __init__(self, request: AggregateRequest, keys: RoundKeys, seal: CarriedSeal, courier: Courier) -> None:
        self._request = request
        self._opener = hpke.Opener(keys.hpke_private)
        self._seal = seal
        self._courier = courier
        self._scratch = new_scratch()
        self._carried = {row.name: (index, row) for index, row in enumerate(request.carried)}

    def base_model(self) -> Row:
        """Return the base model's row. Raises `Refusal`: "invalid-tensors" or "digest-mismatch"."""
        return open_base_model(self._courier.blob(BASE_MODEL), self._request.base_model_digest)

    def base_columns(self, extent: Extent) -> OpenRow:
        """Return what opens a range of the base model's row, all of which is read for its digest."""

        def opened() -> AnyRow:
            model: AnyRow = self.base_model()
            row = model if extent.shape.everything else ChosenRow(model, extent.shape)
            return RowOfColumns(row, extent.columns)

        return opened

    def update(self, candidate: Candidate, extent: Extent) -> OpenRow:
        """Return what opens a range of a device's update, averaged with its history where the policy keeps one."""
        history = self.carried(history_name(candidate.device_id), extent) if self._request.policy.history else None

        def opened() -> AnyRow:
            blob = self._courier.blob(1 + candidate.source)
            opens = open_update if extent.whole else open_part
            row = opens(candidate, self._opener, extent, blob, self._scratch)
            if extent.shape.form.absolute:
                row = DifferenceRow(row, self.base_columns(extent)())
            row = as_stale(row, candidate, self._request.policy)
            return row if history is None else AveragedRow(row, history(), self._request.policy.history)

        return opened

    def carried(self, name: str, extent: Extent) -> OpenRow | None:
        """Return what opens a range of a carried row, or None where the federation carries none."""
        return self._carried_row(extent.name(name), extent.columns.width)

    def _carried_row(self, name: str, size: int) -> OpenRow | None:
        if name not in self._carried:
            return None
        index, row = self._carried[name]
        source = 1 + len(self._request.updates) + index
        return lambda: self._seal.open(row, self._courier.blob(source), size, self._scratch)

    def state_rows(self, names: Sequence[str], extent: Extent) -> list[OpenRow]:
        """Return what opens the rows of a state, all or, before its first round, none of them.

        Raises `Refusal("carried-rows-lost")` where only a part is there.
        """
        openers = [self.carried(name, extent) for name in names]
        found = [opener for opener in openers if opener is not None]
        if found and len(found) != len(openers):
            raise Refusal("carried-rows-lost", "Only a part of the server optimiser's state is there.")
        return found

    def carried_number(self, name: str) -> float | None:
        """Return a carried number. Raises `Refusal("carried-rows-lost")`."""
        opener = self._carried_row(name, 1)
        if opener is None:
            return None
        values = [float(block[0, 0]) for block in SealedRows([opener], Columns(0, 1, 1)).blocks([0])]
        return values[0] if np.isfinite(values[0]) else None
