"""A round on paper: devices with keys, a base model, and sealed updates, honest or not."""

import io
import itertools
from dataclasses import dataclass, field

import numpy as np

from enclave.core.aggregation import BASE_MODEL, Aggregation
from enclave.core.carried import CarriedSeal
from enclave.core.foreseen import SEALED_MODEL
from enclave.core.keys import generate_round_keys
from enclave.core.requests import AggregateRequest, SubmittedManifest
from enclave.core.second_pass import MODEL
from enclave.courier import SealedUpdate
from qflare_protocol import pqc
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.chunked import open_chunks
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.round_result import JudgedRound, RosterEntry
from qflare_protocol.tensors import decode_tensors, encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update
from tests.policies import screened

ROUND, FEDERATION = b"r" * 16, b"f" * 16
FEDERATION_KEY = b"F" * 32


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


def device_id(number):
    return number.to_bytes(16, "big")


def deltas(count, poisoned=0, *, shape=(40, 17), seed=1):
    """Deltas around one common direction; the first `poisoned` are flipped and five times as long."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=shape)
    made = [(common + generator.normal(size=shape)).astype(np.float32) for _ in range(count)]
    return [-5 * delta if index < poisoned else delta for index, delta in enumerate(made)]


class MemoryBlob:
    """A blob in memory, read at any place."""

    def __init__(self, content):
        self.content, self.size = content, len(content)

    def read_into(self, target, offset):
        target[:] = self.content[offset : offset + len(target)]


class MemoryCourier:
    """Gives blobs out of memory by their source number, lists what is opened, and keeps what comes back."""

    def __init__(self, blobs):
        self.blobs = blobs
        self.outputs = {}
        self.steps = []
        self.opened = []
        self.sealed_model_keys = []

    @property
    def model(self):
        return self.outputs.get(MODEL, b"")

    def blob(self, source):
        self.opened.append(source)
        return MemoryBlob(self.blobs[source])

    def write(self, output, piece):
        self.outputs[output] = self.outputs.get(output, b"") + piece

    def open_sealed_model(self, key):
        self.sealed_model_keys.append(key)
        self.outputs[MODEL] = b"".join(open_chunks(key, [self.outputs[SEALED_MODEL]]))

    def report_step(self, name, seconds):
        self.steps.append(name)


class MemoryRecord:
    """A decision record that keeps nothing back: it lists what is committed, and when."""

    def __init__(self):
        self.inputs, self.decisions = [], []

    def commit_inputs(self, inputs):
        self.inputs.append(inputs)

    def commit_decision(self, decision):
        self.decisions.append(decision)


@dataclass
class Round:
    """Submit updates, then `aggregate()`; `hpke_public` and `key_id` may come from a real enclave."""

    base: dict = field(default_factory=lambda: {"w": np.linspace(-1, 1, 680, dtype=np.float32).reshape(40, 17)})
    policy: AggregationPolicy = field(default_factory=screened)
    prepared: object = None

    def __post_init__(self):
        self.keys = generate_round_keys() if self.prepared is None else None
        self.signers, self.submitted, self.blobs, self.carried = {}, [], [], []
        self.base_bytes = encode_tensors(self.base)
        self.record = MemoryRecord()

    @property
    def hpke_public(self):
        return self.keys.hpke_public if self.keys else self.prepared.hpke_public_key

    @property
    def key_id(self):
        return self.keys.key_id if self.keys else self.prepared.key_id

    @property
    def roster(self):
        return tuple(RosterEntry(name, signer.verifier) for name, signer in self.signers.items())

    def submit(self, delta, *, number=None, signer=None, blob=None, claimed_device=None, **claims):
        """Add one update; `claims` override members of its manifest."""
        name = device_id(len(self.submitted) + 1 if number is None else number)
        self.signers.setdefault(name, new_signer())
        context = UpdateContext(FEDERATION, ROUND, name, self.key_id, model_digest(self.base_bytes))
        plaintext = delta if isinstance(delta, bytes) else encode_tensors({"w": delta})
        sealed = b"".join(seal_update(self.hpke_public, context, plaintext))
        members = {
            "round_id": ROUND,
            "federation_id": FEDERATION,
            "device_id": name,
            "base_model_digest": model_digest(self.base_bytes),
            "sample_count": 100,
            "ciphertext_digest": model_digest(sealed),
            "ciphertext_bytes": len(sealed),
            "enclave_key_id": self.key_id,
        }
        signed = sign_manifest(Manifest(**(members | claims)), signer or self.signers[name])
        self.submitted.append(SubmittedManifest(claimed_device or name, signed))
        self.blobs.append(sealed if blob is None else blob(sealed))
        return name

    def submit_all(self, given, **claims):
        return [self.submit(delta, **claims) for delta in given]

    def request(self, **changes):
        members = {
            "round_id": ROUND,
            "federation_id": FEDERATION,
            "policy": self.policy,
            "wrapped_keys": b"",
            "base_model_digest": model_digest(self.base_bytes),
            "roster": self.roster,
            "updates": tuple(self.submitted),
            "carried": tuple(row for row, _ in self.carried),
        }
        return AggregateRequest(**(members | changes))

    def courier(self, **options):
        return MemoryCourier({BASE_MODEL: self.base_bytes} | self.sources(), **options)

    def sources(self, order=1):
        """Return the updates' blobs and then the carried rows' by source number; updates backwards for order -1."""
        return dict(enumerate([*self.blobs[::order], *(blob for _, blob in self.carried)], start=1))

    def aggregate(self, courier=None, **changes):
        """Return the verified result with its verdicts and the new model's tensors."""
        courier = courier or self.courier()
        made = self.aggregation(courier, **changes).run()
        judged = JudgedRound.verified(made, self.keys.result_signer.verifier)
        assert judged.result.model_digest == model_digest(courier.model)
        assert judged.result.model_bytes == len(courier.model)
        return judged, decode_tensors(courier.model)

    def aggregation(self, courier, record=None, **changes):
        """Return the aggregation, which has not run."""
        request = self.request(**changes)
        seal = CarriedSeal(FEDERATION_KEY, bytes(64), request.policy.digest(), FEDERATION)
        return Aggregation(request, self.keys, seal, courier, record or self.record)

    def for_courier(self):
        """Return what `courier.aggregate_round` takes besides the host."""
        return {
            "round_id": ROUND,
            "federation_id": FEDERATION,
            "policy": self.policy,
            "wrapped_keys": self.prepared.wrapped_keys,
            "base_model_digest": model_digest(self.base_bytes),
            "open_base_model": lambda: io.BytesIO(self.base_bytes),
            "roster": self.roster,
            "updates": [
                SealedUpdate(submitted.device_id, submitted.manifest, lambda blob=blob: io.BytesIO(blob))
                for submitted, blob in itertools.zip_longest(self.submitted, self.blobs)
            ],
        }

    def result_of(self, made):
        return JudgedRound.verified(made, Verifier("ML-DSA-44", self.prepared.result_public_key))


def reasons(judged):
    """Return {device number: reason} of the rejected."""
    return {int.from_bytes(verdict.device_id): verdict.reason for verdict in judged.rejected}
