"""Rounds on paper whose model several processes share: everything that `tests.enclave_core.rounds` has, by ranges."""

import io
from dataclasses import dataclass, field, replace

import numpy as np

from enclave.core.aggregation import BASE_MODEL
from enclave.core.carried import CarriedSeal
from enclave.core.fan_out import RangeWork
from enclave.core.keys import WrappingContext, generate_round_keys
from enclave.core.range_messages import SIGHT
from enclave.core.requests import AggregateRequest, SubmittedManifest
from enclave.core.round_work import RoundWork
from enclave.core.second_pass import MODEL
from enclave.core.streams import new_scratch
from enclave.courier import PreparedRound, RoundGiven, SealedRow, SealedUpdate
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.manifest import Manifest, UpdatePart, sign_manifest
from qflare_protocol.ranges import range_bounds
from qflare_protocol.round_result import JudgedRound, RosterEntry
from qflare_protocol.tensors import encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update
from tests.enclave_core.rounds import (
    FEDERATION,
    FEDERATION_KEY,
    ROUND,
    MemoryBlob,
    MemoryCourier,
    MemoryRecord,
    device_id,
    new_signer,
)

MEASUREMENT = bytes(64)


def _public(keys):
    return keys.hpke_public_key if isinstance(keys, PreparedRound) else keys.hpke_public


def sealed_parts(context, keys, delta, ranges):
    """Return what a device seals to the processes that share the model, one after another, and its parts."""
    bounds = range_bounds(delta.size, ranges)
    if len(bounds) == 1:
        return b"".join(seal_update(_public(keys[0]), context, encode_tensors({"w": delta}))), ()
    flat, blob, parts = delta.reshape(-1), b"", []
    for one, columns in zip(keys, bounds, strict=True):
        plaintext = flat[columns.start : columns.stop].astype("<f4").tobytes()
        sealed = b"".join(seal_update(_public(one), replace(context, enclave_key_id=one.key_id), plaintext))
        parts.append(UpdatePart(one.key_id, len(sealed), model_digest(sealed)))
        blob += sealed
    return blob, tuple(parts)


@dataclass
class SharedRound:
    """A round among the ranges of a policy; `aggregate` runs every step in a fresh `RangeWork`."""

    base: np.ndarray
    policy: AggregationPolicy = field(default_factory=AggregationPolicy)
    carried: dict = field(default_factory=dict)
    sealing_key: bytes = b"s" * 32
    measurement: bytes = MEASUREMENT
    prepared: list = field(default_factory=list)

    def __post_init__(self):
        self.count = len(range_bounds(self.base.size, self.policy.ranges))
        self.keys = self.prepared or [generate_round_keys() for _ in range(self.count)]
        self.key_ids = tuple(one.key_id for one in self.keys)
        self.signers, self.submitted, self.blobs = {}, [], []
        self.base_bytes = encode_tensors({"w": self.base})
        self.records = [MemoryRecord() for _ in range(self.count)]
        self.record = MemoryRecord()
        self.outputs = {}

    @property
    def context(self):
        return WrappingContext(self.sealing_key, self.measurement, self.policy.digest(), FEDERATION, ROUND)

    @property
    def seal(self):
        return CarriedSeal(FEDERATION_KEY, bytes(64), self.policy.digest(), FEDERATION)

    def submit(self, delta, *, damaged=None, **claims):
        """Add one update; `damaged` is the range whose part is altered after it was signed."""
        name = device_id(len(self.submitted) + 1)
        signer = self.signers.setdefault(name, new_signer())
        base_digest = model_digest(self.base_bytes)
        context = UpdateContext(FEDERATION, ROUND, name, self.key_ids[0], base_digest)
        blob, parts = sealed_parts(context, self.keys, delta, self.policy.ranges)
        members = {
            "round_id": ROUND,
            "federation_id": FEDERATION,
            "device_id": name,
            "base_model_digest": base_digest,
            "sample_count": 100 + len(self.submitted),
            "ciphertext_digest": model_digest(blob),
            "ciphertext_bytes": len(blob),
            "enclave_key_id": self.key_ids[0],
            "parts": parts,
        }
        self.submitted.append(SubmittedManifest(name, sign_manifest(Manifest(**(members | claims)), signer)))
        if damaged is not None:
            place = sum(part.ciphertext_bytes for part in parts[: damaged + 1]) - 1
            blob = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        self.blobs.append(blob)

    def request(self, carried, **changes):
        members = {
            "round_id": ROUND,
            "federation_id": FEDERATION,
            "policy": self.policy,
            "wrapped_keys": b"",
            "base_model_digest": model_digest(self.base_bytes),
            "roster": tuple(RosterEntry(name, signer.verifier) for name, signer in self.signers.items()),
            "updates": tuple(self.submitted),
            "carried": tuple(row for row, _ in carried),
        }
        return AggregateRequest(**(members | changes))

    def carried_of(self, index):
        """Return the carried rows that a range is given."""
        suffix = f"@{index}"
        given = [name for name in sorted(self.carried) if name.endswith(suffix) or (name == "radius" and not index)]
        return [self.carried[name] for name in given]

    def work(self, index, *, carried=None, record=None, **changes):
        """Return the steps of a range; those of the round as a whole have the round's record."""
        carried = self.carried_of(index) if carried is None else carried
        sources = [self.base_bytes, *self.blobs, *(blob for _, blob in carried)]
        courier = MemoryCourier(dict(enumerate(sources)))
        work = RoundWork(
            self.request(carried, **changes),
            self.keys[index],
            self.seal,
            courier,
            self.records[index] if record is None else record,
            index=index,
            key_ids=self.key_ids,
        )
        return RangeWork(work, self.context), courier

    def given(self, index, carried=None):
        """Return what the courier is given for a step of a range."""
        request = self.request([])
        carried = self.carried_of(index) if carried is None else carried
        return RoundGiven(
            ROUND,
            FEDERATION,
            self.policy,
            self.prepared[index].wrapped_keys,
            request.base_model_digest,
            lambda: io.BytesIO(self.base_bytes),
            request.roster,
            [
                SealedUpdate(one.device_id, one.manifest, lambda blob=blob: io.BytesIO(blob))
                for one, blob in zip(self.submitted, self.blobs, strict=True)
            ],
            [SealedRow(row, lambda blob=blob: io.BytesIO(blob)) for row, blob in carried],
        )

    def whole(self, **options):
        return self.work(0, record=self.record, **options)

    def readings(self):
        return [self.work(index)[0].read().message for index in range(self.count)]

    def decide(self):
        """Return what range 0 decides, after as many readings as that takes, and whether there was a second."""
        readings = self.readings()
        said = self.whole()[0].decide(readings, [])
        if said.kind != SIGHT:
            return said.message, False
        again = [self.work(index)[0].read_again(said.message).message for index in range(self.count)]
        return self.whole()[0].decide(readings, again).message, True

    def combine(self, decision):
        """Return the messages of the slices; the sealed rows are in `outputs` afterwards."""
        slices = []
        for index in range(self.count):
            steps, courier = self.work(index)
            slices.append(steps.combine(decision).message)
            self.outputs |= courier.outputs
        return slices

    def models(self):
        """Return the sealed slices of the new model as rows that a process is given."""
        names = [f"{MODEL}@{index}" for index in range(self.count)]
        return [self.row(name) for name in names]

    def row(self, name):
        blob = self.outputs[name]
        key_id = self.key_ids[int(name.partition("@")[2] or 0)]
        return CarriedRow(name, key_id, model_digest(blob)), blob

    def aggregate(self):
        """Return the judged round, the new model's bytes, and whether the rows were read a second time."""
        decision, again = self.decide()
        slices = self.combine(decision)
        steps, courier = self.whole(carried=self.models())
        made = steps.conclude(decision, slices)
        judged = JudgedRound.verified(made, self.keys[0].result_signer.verifier)
        assert judged.result.model_digest == model_digest(courier.model)
        return judged, courier.model, again

    def carried_on(self):
        """Return the rows for the next round, by name, as `carried` of another `SharedRound`."""
        return self.carried | {name: self.row(name) for name in self.outputs if not name.startswith(MODEL)}

    def opened_rows(self):
        """Return the plaintext of all carried rows by name, a range's behind those before it."""
        whole = {}
        for name, (row, blob) in sorted(
            self.carried_on().items(), key=lambda item: int(item[0].partition("@")[2] or 0)
        ):
            base, _, index = name.partition("@")
            bounds = range_bounds(self.base.size, self.policy.ranges)
            size = 1 if base == "radius" else bounds[int(index or 0)].width
            values = np.empty(size, dtype=np.float32)
            self.seal.open(row, MemoryBlob(blob), size, new_scratch()).read_into(values)
            whole[base] = whole.get(base, b"") + values.tobytes()
        return whole


__all__ = ["BASE_MODEL", "SharedRound", "sealed_parts"]
