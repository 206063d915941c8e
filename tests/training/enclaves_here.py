"""The enclaves of rounds in this process: real keys, evidence and signed results, and what goes wrong meanwhile."""

import uuid
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from typing import Any

import blake3
import numpy as np

from enclave.core.keys import RoundKeys, generate_round_keys
from enclave.courier import PreparedRound
from enclave.models import EnclaveInstance
from enclave.round_given import RoundGiven
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.cose import Verifier
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import manifest_digest, unverified_manifest
from qflare_protocol.round_result import JudgedRound, RoundResult, commitment_to, roster_digest, sign_judged
from qflare_protocol.round_verdicts import NORM_ABOVE_BOUND, UpdateVerdict
from qflare_protocol.tensors import encode_tensors
from tests.open_rounds import prepare_here

UNWANTED_SAMPLES = 13
"""Updates of so many samples are rejected."""


class Crash(BaseException):
    """The worker's process ends at this point."""


class Fate(StrEnum):
    """What befalls a worker, or its round, while the enclave is at work."""

    ENDS_WELL = "ends well"
    CRASHES_AT_ONCE = "crashes at once"
    CRASHES_AT_THE_COMMIT = "crashes at the commit"
    IS_SLOW = "is slow"
    IS_OVERTAKEN = "is overtaken"
    ROUND_IS_CANCELLED = "its round is cancelled"
    FAILS_IN_PASSING = "fails in passing"
    FAILS_FOR_GOOD = "fails for good"
    LOST_ITS_KEYS = "lost its keys"


REFUSALS = {
    Fate.FAILS_IN_PASSING: Refusal("enclave-failed", "It broke."),
    Fate.FAILS_FOR_GOOD: Refusal("sealing-refused", "The kernel does not let it."),
    Fate.LOST_ITS_KEYS: Refusal("decryption-failed", "The round's keys do not open."),
}


class EnclavesHere:
    """Stands in for the sealed processes; before each one's answer it does what it was told to do `meanwhile`."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self._keys: dict[bytes, RoundKeys] = {}

    def start(
        self, round_id: uuid.UUID, federation_id: uuid.UUID, policy: AggregationPolicy, *ranges: int
    ) -> PreparedRound:
        """Make a round's keys, as `enclave.services.start_enclave` does."""
        self._pass_the_time()
        keys = generate_round_keys()
        prepared = prepare_here(round_id, federation_id, policy, *ranges, keys=keys)
        self._keys[prepared.claims.key_id] = keys
        return prepared

    def aggregate(
        self, instance: EnclaveInstance, given: RoundGiven, *, write_output: Callable[[str, bytes], None], **_: Any
    ) -> JudgedRound:
        """Make a model of a round's own and sign for it, as `enclave.services.aggregate` does."""
        self._pass_the_time()
        verdicts = tuple(_verdict(update.device_id, update.manifest) for update in given.updates)
        if sum(verdict.accepted for verdict in verdicts) < given.policy.minimum_updates:
            told = [{**asdict(verdict), "device_id": verdict.device_id.hex()} for verdict in verdicts]
            raise Refusal("too-few-updates", "Too few updates are acceptable.", verdicts=told)
        model = encode_tensors({"w": np.full((4, 3), int.from_bytes(given.round_id[:2]), dtype=np.float32)})
        write_output("model", model)
        result = _result(bytes(instance.key_id), given, model, verdicts)
        signer = self._keys[bytes(instance.key_id)].result_signer
        return JudgedRound.verified(sign_judged(result, verdicts, signer), signer.verifier)

    def _pass_the_time(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()


def _verdict(device_id: bytes, signed: bytes) -> UpdateVerdict:
    manifest = unverified_manifest(signed)
    wanted = manifest.sample_count != UNWANTED_SAMPLES
    reason = None if wanted else NORM_ABOVE_BOUND
    return UpdateVerdict(device_id, manifest_digest(signed), manifest.ciphertext_digest, wanted, reason)


def _result(key_id: bytes, given: RoundGiven, model: bytes, verdicts: tuple[UpdateVerdict, ...]) -> RoundResult:
    return RoundResult(
        round_id=given.round_id,
        federation_id=given.federation_id,
        enclave_key_id=key_id,
        base_model_digest=given.base_model_digest,
        model_digest=blake3.blake3(model).digest(),
        model_bytes=len(model),
        rule="mean",
        policy_digest=given.policy.digest(),
        roster_digest=roster_digest(given.roster),
        sample_total=1,
        carried_in=digest("test", b""),
        carried_out=digest("test", b""),
        older_bases=tuple(given.older_bases),
        **commitment_to(verdicts),
    )


def result_verifier(instance: EnclaveInstance) -> Verifier:
    """Return what a round's signed result is checked with."""
    return Verifier("ML-DSA-44", bytes(instance.result_public_key))
