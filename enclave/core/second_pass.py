"""The second pass: the new model, and the rows that the federation carries on, made range by range."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import blake3
import numpy as np

from enclave.core.carried import CENTRE, RADIUS, CarriedSeal, CarriedWriter, history_name
from enclave.core.inputs import Candidate
from enclave.core.rows import SealedRows
from enclave.core.rules.gram import BLOCK_COLUMNS
from enclave.core.rules.noise import NOISE_STARTS_AT, standard_normals
from enclave.core.rules.pipeline import Decision, Pipeline
from enclave.core.sources import Courier, Sources
from enclave.core.streams import Float32
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import TensorLayout, encode_header

MODEL = "model"


@dataclass(frozen=True)
class Outputs:
    """What the second pass gave out: the model's digest and the new carried rows."""

    model_digest: bytes
    carried: list[CarriedRow]


class SecondPass:
    """Makes the model of one decided round. Its rows: base model, updates, last aggregate, the optimiser's state."""

    def __init__(
        self,
        sources: Sources,
        courier: Courier,
        seal: CarriedSeal,
        pipeline: Pipeline,
        layout: TensorLayout,
        *,
        key_id: bytes,
        seed: bytes,
    ) -> None:
        self._sources, self._courier, self._seal = sources, courier, seal
        self._pipeline, self._layout = pipeline, layout
        self._key_id, self._seed = key_id, seed
        self._hasher = blake3.blake3()
        self._writers: dict[str, CarriedWriter] = {}

    def run(self, survivors: Sequence[Candidate], decision: Decision) -> Outputs:
        """Give everything out. Raises `Refusal("enclave-failed")` for a source or a model that does not hold."""
        try:
            self._run(survivors, decision)
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"The new model could not be made: {refusal.detail}") from refusal
        return Outputs(self._hasher.digest(), [writer.finish() for writer in self._writers.values()])

    def _run(self, survivors: Sequence[Candidate], decision: Decision) -> None:
        read = decision.kept if self._pipeline.policy.history else list(decision.combination.rows)
        combined = [read.index(row) for row in decision.combination.rows]
        self._emit(encode_header(self._layout))
        state = self._pipeline.server_optimiser.state
        for start, base, updates, centre, carried in self._ranges(survivors, read, decision):
            rows = updates if len(combined) == len(updates) else updates[combined]
            rows = np.concatenate((rows, centre)) if decision.combination.reads_centre else rows
            aggregate = self._with_noise(decision.combination.combine(rows), decision.noise_deviation, start)
            rows_of_state = dict(zip(state, carried, strict=True))
            step = self._pipeline.server_optimiser.step(aggregate, rows_of_state)
            self._emit(_model_range(base, step))
            for index, row in zip(read, updates, strict=True):
                if self._pipeline.policy.history:
                    self._carry(history_name(survivors[index].device_id), row)
            if self._pipeline.carries_centre:
                self._carry(CENTRE, aggregate)
            for name, row in rows_of_state.items():
                self._carry(name, row)
        if decision.next_radius is not None:
            self._carry(RADIUS, np.array([decision.next_radius], dtype=np.float32))

    def _ranges(
        self, survivors: Sequence[Candidate], read: Sequence[int], decision: Decision
    ) -> Iterator[tuple[int, Float32, Float32, Float32, Float32]]:
        """Yield for every range where it starts, and the base model's, updates', centre's and carried state's rows."""
        size, base = self._layout.size, self._sources.base_model()
        centre = self._sources.carried(CENTRE, size) if decision.combination.reads_centre else None
        state = self._sources.state_rows(self._pipeline.server_optimiser.state, size)
        openers = [lambda: base, *(self._sources.update(survivors[row], self._layout) for row in read)]
        openers += [*([centre] if centre else []), *state]
        rows, initial = SealedRows(openers, size), self._pipeline.server_optimiser.initial
        updates_end, centre_end = 1 + len(read), 1 + len(read) + int(centre is not None)
        for number, block in enumerate(rows.blocks(range(len(rows)))):
            carried = block[centre_end:]
            if not state:
                carried = np.repeat(np.array([*initial.values()], dtype=np.float32)[:, None], block.shape[1], axis=1)
            yield number * BLOCK_COLUMNS, block[0], block[1:updates_end], block[updates_end:centre_end], carried

    def _with_noise(self, aggregate: Float32, deviation: float, start: int) -> Float32:
        if not deviation:
            return aggregate
        noise = deviation * standard_normals(self._seed, NOISE_STARTS_AT + start, len(aggregate))
        noisy: Float32 = (aggregate + noise).astype(np.float32)
        return noisy

    def _emit(self, piece: bytes) -> None:
        self._hasher.update(piece)
        self._courier.write(MODEL, piece)

    def _carry(self, name: str, values: Float32) -> None:
        if name not in self._writers:
            self._writers[name] = self._seal.writer(name, self._key_id, lambda piece: self._courier.write(name, piece))
        self._writers[name].write(values)


def _model_range(base: Float32, step: Float32) -> bytes:
    with np.errstate(over="ignore"):
        model = base + step
    if not np.isfinite(model).all():
        raise Refusal("invalid-tensors", "The new model has weights that are not finite float32 numbers.")
    return model.astype("<f4", copy=False).tobytes()
