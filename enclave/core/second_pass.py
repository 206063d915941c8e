"""The second pass: the new model, and the rows that the federation carries on, made block by block.

The process that works on the whole model gives it out as it is. One that works on a range seals its
slice, as it seals the rows to carry: a model leaves when all of it is there, from `model_of_slices`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import blake3
import numpy as np

from enclave.core.carried import CENTRE, RADIUS, CarriedSeal, CarriedWriter, history_name
from enclave.core.chosen import AmongOthers
from enclave.core.extent import Extent
from enclave.core.inputs import Candidate
from enclave.core.rows import SealedRows
from enclave.core.rules.combination import Combination
from enclave.core.rules.noise import NOISE_STARTS_AT, standard_normals
from enclave.core.rules.pipeline import Pipeline
from enclave.core.sources import Courier, Sources
from enclave.core.streams import AnyRow, Float32
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import encode_header
from qflare_protocol.update_shape import UpdateShape

MODEL = "model"


@dataclass(frozen=True)
class Plan:
    """What was decided of the rows, as far as combining them needs it.

    - kept: those of the survivors, by index, that take part; `combination` numbers the survivors alike.
    - noise_deviation, seed: the noise on each number of the aggregate, and the secret key it is drawn with.
    - next_radius: the clipping radius to carry to the next round, where one is.
    """

    kept: tuple[int, ...]
    combination: Combination
    noise_deviation: float
    next_radius: float | None
    seed: bytes


@dataclass(frozen=True)
class Outputs:
    """What the second pass gave out: the model's digest, of a whole model, and the sealed rows."""

    model_digest: bytes
    carried: list[CarriedRow]


class SecondPass:
    """Makes one range of a decided round: of base model, updates, last aggregate, the optimiser's state."""

    def __init__(
        self,
        sources: Sources,
        courier: Courier,
        seal: CarriedSeal,
        pipeline: Pipeline,
        extent: Extent,
        *,
        key_id: bytes,
    ) -> None:
        self._sources, self._courier, self._seal = sources, courier, seal
        self._pipeline, self._extent = pipeline, extent
        self._key_id = key_id
        self._model = model_writer(sources, extent.shape, lambda piece: courier.write(MODEL, piece))
        self._writers: dict[str, CarriedWriter] = {}

    def run(self, survivors: Sequence[Candidate], plan: Plan) -> Outputs:
        """Give everything out. Raises `Refusal("enclave-failed")` for a source or a model that does not hold."""
        try:
            self._run(survivors, plan)
            if self._extent.whole:
                self._model.finish()
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"The new model could not be made: {refusal.detail}") from refusal
        return Outputs(self._model.digest(), [writer.finish() for writer in self._writers.values()])

    def _run(self, survivors: Sequence[Candidate], plan: Plan) -> None:
        read = list(plan.kept if self._pipeline.policy.history else plan.combination.rows)
        combined = [read.index(row) for row in plan.combination.rows]
        state = self._pipeline.server_optimiser.state
        write_model = self._model.write if self._extent.whole else lambda values: self._seal_on(MODEL, values)
        for start, base, updates, centre, carried in self._blocks(survivors, read, plan):
            rows = updates if len(combined) == len(updates) else updates[combined]
            rows = np.concatenate((rows, centre)) if plan.combination.reads_centre else rows
            aggregate = _with_noise(plan.combination.combine(rows), plan, start)
            rows_of_state = dict(zip(state, carried, strict=True))
            step = self._pipeline.server_optimiser.step(aggregate, rows_of_state)
            write_model(new_weights(base, step))
            for index, row in zip(read, updates, strict=True):
                if self._pipeline.policy.history:
                    self._seal_on(history_name(survivors[index].device_id), row)
            if self._pipeline.carries_centre:
                self._seal_on(CENTRE, aggregate)
            for name, row in rows_of_state.items():
                self._seal_on(name, row)
        if plan.next_radius is not None and self._extent.index == 0:
            self._write(RADIUS, np.array([plan.next_radius], dtype=np.float32))

    def _blocks(
        self, survivors: Sequence[Candidate], read: Sequence[int], plan: Plan
    ) -> Iterator[tuple[int, Float32, Float32, Float32, Float32]]:
        """Yield for every block where it starts, and the base model's, updates', centre's and carried state's rows."""
        extent = self._extent
        centre = self._sources.carried(CENTRE, extent) if plan.combination.reads_centre else None
        state = self._sources.state_rows(self._pipeline.server_optimiser.state, extent)
        openers = [self._sources.base_columns(extent)]
        openers += [self._sources.update(survivors[row], extent) for row in read]
        openers += [*([centre] if centre else []), *state]
        rows, initial = SealedRows(openers, extent.columns), self._pipeline.server_optimiser.initial
        updates_end, centre_end = 1 + len(read), 1 + len(read) + int(centre is not None)
        for number, block in enumerate(rows.blocks(range(len(rows)))):
            carried = block[centre_end:]
            if not state:
                carried = np.repeat(np.array([*initial.values()], dtype=np.float32)[:, None], block.shape[1], axis=1)
            start = extent.columns.start + number * BLOCK_COLUMNS
            yield start, block[0], block[1:updates_end], block[updates_end:centre_end], carried

    def _seal_on(self, output: str, values: Float32) -> None:
        self._write(self._extent.name(output), values)

    def _write(self, name: str, values: Float32) -> None:
        if name not in self._writers:
            self._writers[name] = self._seal.writer(name, self._key_id, lambda piece: self._courier.write(name, piece))
        self._writers[name].write(values)


class ModelWriter:
    """Makes a container of a model's weights, its header first, and hashes it; `send` takes its pieces.

    `base` opens the base model's row, where the weights given are only those that updates of that shape are about.
    """

    def __init__(
        self, shape: UpdateShape, send: Callable[[bytes], None], base: Callable[[], AnyRow] | None = None
    ) -> None:
        self._layout, self._send = shape.model, send
        self._hasher = blake3.blake3()
        self._begun = False
        self._among = None if base is None else AmongOthers(base(), shape, self._take)

    def write(self, weights: Float32) -> None:
        """Take the next weights. Raises the `Refusal` of the base model's row."""
        if self._among is None:
            self._take(weights)
        else:
            self._among.write(weights)

    def finish(self) -> None:
        """Give out what is left. Raises `Refusal` where the model does not become whole."""
        if self._among is not None:
            self._among.finish()

    def _take(self, weights: Float32) -> None:
        if not self._begun:
            self._emit(encode_header(self._layout))
            self._begun = True
        self._emit(weights.astype("<f4", copy=False).tobytes())

    def digest(self) -> bytes:
        """Return the digest of what was given out."""
        return self._hasher.digest()

    def _emit(self, piece: bytes) -> None:
        self._hasher.update(piece)
        self._send(piece)


def model_writer(sources: Sources, shape: UpdateShape, send: Callable[[bytes], None]) -> ModelWriter:
    """Return what makes the new model of the weights that the updates are about."""
    return ModelWriter(shape, send, None if shape.everything else sources.base_model)


def model_of_slices(sources: Sources, shape: UpdateShape, slices: Sequence[SealedRows], courier: Courier) -> bytes:
    """Give out the model whose slices are these rows, in order, and return its digest.

    Raises `Refusal("enclave-failed")` for a slice that is not what its range made.
    """
    try:
        model = model_writer(sources, shape, lambda piece: courier.write(MODEL, piece))
        for rows in slices:
            for block in rows.blocks([0]):
                model.write(block[0])
        model.finish()
    except Refusal as refusal:
        raise Refusal("enclave-failed", f"The new model could not be put together: {refusal.detail}") from refusal
    return model.digest()


def _with_noise(aggregate: Float32, plan: Plan, start: int) -> Float32:
    if not plan.noise_deviation:
        return aggregate
    noise = plan.noise_deviation * standard_normals(plan.seed, NOISE_STARTS_AT + start, len(aggregate))
    noisy: Float32 = (aggregate + noise).astype(np.float32)
    return noisy


def new_weights(base: Float32, step: Float32) -> Float32:
    """Return the new model's weights. Raises `Refusal("invalid-tensors")` where one is not finite."""
    with np.errstate(over="ignore"):
        model: Float32 = base + step
    if not np.isfinite(model).all():
        raise Refusal("invalid-tensors", "The new model has weights that are not finite float32 numbers.")
    return model
