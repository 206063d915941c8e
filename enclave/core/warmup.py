"""One whole dummy round inside the process, before it is sealed.

numpy, HPKE and the codecs load parts of themselves on first use, which a sealed process could no
longer do. The dummy round goes through the very code that will serve, over queues for a channel; a
process whose own round fails does not start.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from enclave.core.aggregation import Aggregation
from enclave.core.carried import CarriedSeal
from enclave.core.host import DecisionRecord
from enclave.core.keys import RoundKeys, WrappingContext, generate_round_keys, unwrap_keys, wrap_keys
from enclave.core.requests import AggregateRequest, SubmittedManifest, read_request
from enclave.core.rules.in_memory import Aggregator
from enclave.core.rules.linear_rules import RULES
from enclave.core.rules.order_statistics import MOST_ROWS_BY_NETWORK
from enclave.core.rules.pre_aggregation import PRE_AGGREGATIONS
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS
from enclave.core.streams import FileBlob
from qflare_protocol import pqc
from qflare_protocol.aggregation_policy import NONE, PROTECTIONS, AggregationPolicy, Stage
from qflare_protocol.attestation import EnclaveClaims, sign_software_evidence
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.cose import Signer
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.pqc import registry
from qflare_protocol.round_result import JudgedRound, RosterEntry
from qflare_protocol.tensors import encode_tensors, model_digest
from qflare_protocol.update import UpdateContext, seal_update

_ROUND, _FEDERATION = bytes(15) + b"r", bytes(15) + b"f"
_DEVICES = 4
DUMMY_POLICY = AggregationPolicy(filters=(Stage("norm-bound"), Stage("consensus-cosine")), history=0.5)


class _MemoryCourier:
    """Gives the blobs, written to files without names, and keeps the outputs."""

    def __init__(self, blobs: Sequence[bytes], files: ExitStack) -> None:
        self._files = [files.enter_context(_file_of(blob)) for blob in blobs]
        self.outputs: dict[str, bytes] = {}

    def blob(self, source: int) -> FileBlob:
        return FileBlob(self._files[source].fileno())

    def write(self, output: str, piece: bytes) -> None:
        self.outputs[output] = self.outputs.get(output, b"") + piece

    def open_sealed_model(self, key: bytes) -> None:
        """The dummy round's pipeline looks at the rows: it seals no model."""

    def report_step(self, name: str, seconds: float) -> None:
        """Nobody waits for the times of a dummy round."""


def warm_up() -> None:
    """Run the dummy round: four devices, one of them poisoned.

    Raises `Refusal("enclave-failed")` when it does not come out right.
    """
    _load_signature_schemes()
    _exercise_every_part()
    keys = _rewrapped(generate_round_keys())
    _dummy_evidence(keys)
    base = encode_tensors({"w": np.ones((4, 3), dtype=np.float32)})
    signers = [_signer() for _ in range(_DEVICES)]
    updates = [_update(index, signer, keys, base) for index, signer in enumerate(signers)]
    request = AggregateRequest(
        round_id=_ROUND,
        federation_id=_FEDERATION,
        policy=DUMMY_POLICY,
        wrapped_keys=b"",
        base_model_digest=model_digest(base),
        roster=tuple(RosterEntry(_device_id(index), signer.verifier) for index, signer in enumerate(signers)),
        updates=tuple(submitted for submitted, _ in updates),
    )
    with ExitStack() as files:
        courier = _MemoryCourier([base, *(blob for _, blob in updates)], files)
        _run(request, keys, courier, DecisionRecord(files.enter_context(_file_of(b"")).fileno()))


def _exercise_every_part() -> None:
    """Run every part of the rules once: what numpy loads on first use is loaded now."""
    few, many = (
        np.eye(count, 40, dtype=np.float32) + np.float32(1.0) for count in (_DEVICES, MOST_ROWS_BY_NETWORK + 1)
    )
    for policy in every_part():
        for updates in (few, many):
            Aggregator(policy).aggregate(updates, seed=bytes(32))


def every_part() -> list[AggregationPolicy]:
    """Return policies that name every registered part at least once."""
    plain = AggregationPolicy(
        tolerated_fraction=0.0, filters=(), pre_aggregation=(), rule=Stage("mean"), server_optimiser=NONE
    )
    clipping = Stage("quantile-clipping")
    private = replace(plain, pre_aggregation=(clipping,), noise=Stage("gaussian"))
    root = replace(plain, filters=(Stage("root-cosine"),), root_device=bytes(16).hex())
    return [
        AggregationPolicy(filters=(Stage("norm-bound"), Stage("consensus-cosine")), history=0.5),
        root,
        private,
        *(replace(plain, rule=Stage(name)) for name in RULES),
        *(replace(plain, pre_aggregation=(Stage(name),)) for name in PRE_AGGREGATIONS if name != clipping.name),
        *(replace(plain, server_optimiser=Stage(name)) for name in SERVER_OPTIMISERS),
    ]


def _load_signature_schemes() -> None:
    """Test every signature scheme that is served here: a roster may name any, and engines load on first use."""
    for name in registry.SIGNATURE_NAMES:
        registry.failure_of(name)


def _run(request: AggregateRequest, keys: RoundKeys, courier: _MemoryCourier, record: DecisionRecord) -> None:
    reread = read_request(request.to_map())
    assert isinstance(reread, AggregateRequest)  # noqa: S101 - narrows the type: it was one before
    seal = CarriedSeal(os.urandom(32), bytes(64), request.policy.digest(), _FEDERATION)
    made = Aggregation(reread, keys, seal, courier, record).run()
    judged = JudgedRound.verified(made, keys.result_signer.verifier)
    if len(judged.accepted) != _DEVICES - 1 or judged.result.model_digest != model_digest(courier.outputs["model"]):
        raise Refusal("enclave-failed", "The dummy round did not reject exactly the poisoned update.")


def _file_of(content: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("dummy round"), "r+b")
    file.write(content)
    file.flush()
    return file


def _rewrapped(keys: RoundKeys) -> RoundKeys:
    context = WrappingContext(os.urandom(32), bytes(64), bytes(64), _FEDERATION, _ROUND)
    return unwrap_keys(wrap_keys(keys, context), context)


def _dummy_evidence(keys: RoundKeys) -> None:
    claims = EnclaveClaims(
        nonce=bytes(16),
        round_id=_ROUND,
        federation_id=_FEDERATION,
        hpke_public_key=keys.hpke_public,
        result_public_key=keys.result_signer.public,
        measurement=bytes(64),
        policy=AggregationPolicy(),
        protections=dict.fromkeys(PROTECTIONS, False),
        issued_at=0,
    )
    sign_software_evidence(claims, _signer())


def _signer() -> Signer:
    pair = pqc.signature(SIGNATURE_ALGORITHM).generate()
    return Signer(SIGNATURE_ALGORITHM, pair.private, pair.public)


def _device_id(index: int) -> bytes:
    return index.to_bytes(16, "big")


def _update(index: int, signer: Signer, keys: RoundKeys, base: bytes) -> tuple[SubmittedManifest, bytes]:
    direction = -1.0 if index == 0 else 1.0
    delta = encode_tensors({"w": np.full((4, 3), direction, dtype=np.float32)})
    context = UpdateContext(_FEDERATION, _ROUND, _device_id(index), keys.key_id, model_digest(base))
    blob = b"".join(seal_update(keys.hpke_public, context, delta))
    manifest = Manifest(
        round_id=_ROUND,
        federation_id=_FEDERATION,
        device_id=_device_id(index),
        base_model_digest=model_digest(base),
        sample_count=10,
        ciphertext_digest=model_digest(blob),
        ciphertext_bytes=len(blob),
        enclave_key_id=keys.key_id,
    )
    return SubmittedManifest(_device_id(index), sign_manifest(manifest, signer)), blob
