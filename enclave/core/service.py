"""The sealed process's conversation with its courier: ready, one request, one answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

from enclave.core.aggregation import Aggregation
from enclave.core.attesters.interface import Attester
from enclave.core.carried import CarriedSeal
from enclave.core.channel import Channel
from enclave.core.fan_out import RangeWork
from enclave.core.host import DecisionRecord
from enclave.core.keys import RoundKeys, WrappingContext, generate_round_keys, unwrap_keys, wrap_keys
from enclave.core.requests import OF_THE_ROUND, AggregateRequest, PrepareRequest, RangeRequest, read_request
from enclave.core.round_work import RoundWork
from enclave.core.rules.pipeline import Pipeline
from enclave.core.streams import Blob, FileBlob
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.attestation import EnclaveClaims
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import SignedResult
from qflare_protocol.sealing_tier import missing_protections


@dataclass(frozen=True)
class EnclaveState:
    """What the process holds when it begins to listen.

    `attester` is there to prepare a round, `federation_key` and `decisions` to aggregate it or a range
    of it; `range_index` names the range whose record `decisions` is, None where it is the round's.
    `protections` is what `seal_process` gave, `memory_bytes` the address space it was sealed with,
    `blob_descriptors` the open files of the round's blobs.
    """

    measurement: bytes
    protections: dict[str, bool]
    memory_bytes: int
    sealing_key: bytes = field(repr=False)
    federation_key: bytes | None = field(default=None, repr=False)
    attester: Attester | None = None
    decisions: DecisionRecord | None = None
    blob_descriptors: frozenset[int] = frozenset()
    range_index: int | None = None


def serve(channel: Channel, state: EnclaveState) -> None:
    """Announce readiness, answer one request, and return.

    A refusal goes to the courier as an answer; every other exception ends the process.
    """
    channel.send({"kind": "ready", "measurement": state.measurement, "protections": state.protections})
    try:
        channel.send(_answer(channel, state))
    except Refusal as refusal:
        channel.send(refused(refusal))


def refused(refusal: Refusal) -> dict[str, Any]:
    """Return the message that carries a refusal to the courier."""
    return {"kind": "refused", "code": refusal.code, "detail": refusal.detail, "extensions": refusal.extensions}


def _answer(channel: Channel, state: EnclaveState) -> dict[str, Any]:
    request = read_request(channel.receive())
    _require_sealing(request.policy, state)
    if isinstance(request, PrepareRequest):
        return _prepare(request, state)
    if isinstance(request, RangeRequest):
        return _work_on_range(request, state, channel)
    return _aggregate(request, state, channel)


def _require_sealing(policy: AggregationPolicy, state: EnclaveState) -> None:
    if missing := missing_protections(state.protections, policy.required_tier, policy.required_protections):
        raise Refusal("sealing-refused", f"The policy demands {', '.join(missing)}, which this host does not give.")
    if state.memory_bytes != policy.maximum_memory_bytes:
        raise Refusal("sealing-refused", "The process was sealed with another memory limit than the policy's.")


def _prepare(request: PrepareRequest, state: EnclaveState) -> dict[str, Any]:
    if state.attester is None:
        raise Refusal("enclave-failed", "This process was not started to prepare a round.")
    Pipeline.of(request.policy)
    keys = generate_round_keys()
    claims = EnclaveClaims(
        nonce=request.nonce,
        round_id=request.round_id,
        federation_id=request.federation_id,
        hpke_public_key=keys.hpke_public,
        result_public_key=keys.result_signer.public,
        measurement=state.measurement,
        policy=request.policy,
        protections=state.protections,
        issued_at=int(time()),
        range_index=request.range_index,
        range_count=request.range_count,
    )
    return {
        "kind": "prepared",
        "evidence": state.attester.attest(claims),
        "wrapped_keys": wrap_keys(keys, _context(request, state)),
    }


def _aggregate(request: AggregateRequest, state: EnclaveState, channel: Channel) -> dict[str, Any]:
    given = _given(request, state, channel, range_index=None)
    return _aggregated(Aggregation(request, *given).run())


def _aggregated(made: SignedResult) -> dict[str, Any]:
    return {"kind": "aggregated", "result": made.signed, "verdicts": made.verdicts}


def _work_on_range(request: RangeRequest, state: EnclaveState, channel: Channel) -> dict[str, Any]:
    index = None if request.step in OF_THE_ROUND else request.range_index
    given = _given(request.round, state, channel, range_index=index)
    round_work = RoundWork(request.round, *given, index=request.range_index, key_ids=request.key_ids)
    work = RangeWork(round_work, _context(request.round, state))
    if request.step == "conclude":
        decision, *slices = request.messages or (b"",)
        return _aggregated(work.conclude(decision, slices))
    if request.step == "decide":
        said = work.decide(request.messages, request.second_readings)
    elif request.step == "read":
        said = work.read()
    else:
        said = {"read-again": work.read_again, "combine": work.combine}[request.step](*request.messages[:1])
    return {"kind": "said", "what": said.kind, "message": said.message}


def _given(
    request: AggregateRequest, state: EnclaveState, channel: Channel, *, range_index: int | None
) -> tuple[RoundKeys, CarriedSeal, "DescriptorCourier", DecisionRecord]:
    """Return what a round or a range is worked on with, in a process that was started for it."""
    if state.decisions is None or state.federation_key is None or state.range_index != range_index:
        raise Refusal("enclave-failed", "This process was not started to aggregate this round or range.")
    keys = unwrap_keys(request.wrapped_keys, _context(request, state))
    seal = CarriedSeal(state.federation_key, state.measurement, request.policy.digest(), request.federation_id)
    return keys, seal, DescriptorCourier(channel, _descriptors(request, state)), state.decisions


def _descriptors(request: AggregateRequest, state: EnclaveState) -> tuple[int, ...]:
    sources = 1 + len(request.updates) + len(request.carried)
    if len(request.descriptors) != sources or not state.blob_descriptors.issuperset(request.descriptors):
        raise Refusal("malformed-message", "The request names other files than the process was given.")
    return request.descriptors


def _context(request: PrepareRequest | AggregateRequest, state: EnclaveState) -> WrappingContext:
    return WrappingContext(
        sealing_key=state.sealing_key,
        measurement=state.measurement,
        policy_digest=request.policy.digest(),
        federation_id=request.federation_id,
        round_id=request.round_id,
    )


class DescriptorCourier:
    """The courier as the aggregation sees it: blobs are open files, outputs go over the channel."""

    def __init__(self, channel: Channel, descriptors: Sequence[int]) -> None:
        self._channel = channel
        self._descriptors = descriptors

    def blob(self, source: int) -> Blob:
        """Return a source's open file."""
        return FileBlob(self._descriptors[source])

    def write(self, output: str, piece: bytes) -> None:
        """Send a piece of the new model or of a carried row."""
        self._channel.send({"kind": "output", "name": output, "piece": piece})

    def open_sealed_model(self, key: bytes) -> None:
        """Send the key of the model that was sent sealed."""
        self._channel.send({"kind": "model-key", "key": key})

    def report_step(self, name: str, seconds: float) -> None:
        """Send how long a step took."""
        self._channel.send({"kind": "step", "name": name, "seconds": seconds})
