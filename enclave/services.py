"""The verbs around the sealed process: prepare a round's enclave, let it aggregate, retire it."""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from django.conf import settings

from audit.services import record_event
from enclave import courier, range_courier
from enclave.core.fan_out import Said
from enclave.core.measurement import measure
from enclave.models import EnclaveInstance
from enclave.range_courier import RangeTask
from enclave.round_given import RoundGiven
from enclave.spare_process import SPARE
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.attestation import Appraisal, AppraisalPolicy, PlatformPin, appraise
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM, read_evidence
from qflare_protocol.attestation.hardware import verify_platform
from qflare_protocol.attestation.pins import parse_pins
from qflare_protocol.attestation.roots import VendorRoots
from qflare_protocol.attestation.trust_vector import WARNING
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import JudgedRound

VENDOR_ROOTS = VendorRoots()
NO_REFERENCE = "QFLARE_ENCLAVE_PLATFORMS pins no image, so this host does not know whether the right one was launched."


def enclave_host() -> courier.EnclaveHost:
    """Return where and as whom sealed processes run on this host; its directory is made on first use."""
    host = enclave_account()
    courier.initialise_host_directory(host.directory, host.uid, host.gid)
    return host


def enclave_account() -> courier.EnclaveHost:
    """Return the same without touching the directory."""
    directory = Path(settings.QFLARE_ENCLAVE_DIR)
    return courier.EnclaveHost(
        directory,
        settings.QFLARE_ENCLAVE_UID,
        settings.QFLARE_ENCLAVE_GID,
        timeout_seconds=settings.QFLARE_ENCLAVE_REQUEST_SECONDS,
        attester=settings.QFLARE_ENCLAVE_ATTESTER,
    )


def start_enclave(
    round_id: uuid.UUID,
    federation_id: uuid.UUID,
    policy: AggregationPolicy,
    range_index: int = 0,
    range_count: int = 1,
) -> courier.PreparedRound:
    """Let a sealed process make the keys and evidence of the round or of one range of it; changes no state here.

    Raises `Refusal`: "enclave-failed", "sealing-refused".
    """
    return courier.prepare_round(
        enclave_host(),
        round_id=round_id.bytes,
        federation_id=federation_id.bytes,
        policy=policy,
        nonce=secrets.token_bytes(32),
        range_index=range_index,
        range_count=range_count,
    )


def record_instance(
    prepared: courier.PreparedRound,
    round_id: uuid.UUID,
    federation_id: uuid.UUID,
    range_index: int = 0,
    range_count: int = 1,
    *,
    now: datetime,
) -> EnclaveInstance:
    """Appraise and keep a prepared enclave of a round or of one range of it, inside the caller's transaction.

    Raises `Refusal("evidence-refused")` when the evidence does not even satisfy its own host.
    """
    appraisal = _own_appraisal(
        prepared,
        round_id=round_id.bytes,
        federation_id=federation_id.bytes,
        range_index=range_index,
        range_count=range_count,
        now=now,
    )
    claims = appraisal.claims
    instance = EnclaveInstance.objects.create(
        round_id=round_id,
        range_index=range_index,
        range_count=range_count,
        attester=appraisal.attester,
        tier=appraisal.tier,
        key_id=claims.key_id,
        hpke_public_key=claims.hpke_public_key,
        result_public_key=claims.result_public_key,
        measurement=claims.measurement,
        policy_digest=claims.policy.digest(),
        evidence=prepared.evidence,
        attestation_key=courier.attestation_public_key(enclave_host().directory),
        protections=claims.protections,
        appraisal=appraisal.to_map(),
        wrapped_keys=prepared.wrapped_keys,
        prepared_at=now,
    )
    record_event(
        "enclave.prepared",
        actor="system",
        payload={
            "round_id": str(round_id),
            "range": f"{range_index + 1} of {range_count}",
            "key_id": claims.key_id.hex(),
            "measurement": claims.measurement.hex(),
            "policy_digest": claims.policy.digest().hex(),
            "attester": appraisal.attester,
            "tier": appraisal.tier,
            "registers": {name: value.hex() for name, value in appraisal.registers.items()},
        },
    )
    return instance


def _own_appraisal(
    prepared: courier.PreparedRound,
    *,
    round_id: bytes,
    federation_id: bytes,
    range_index: int,
    range_count: int,
    now: datetime,
) -> Appraisal:
    """Appraise as a device would that pins this host, its code and the platforms of the settings.

    Where none is set, hardware's evidence is held against itself: its vendor's signatures and the
    binding to the claims are checked, and what it launched stays a warning.
    """
    attester = Verifier(SIGNATURE_ALGORITHM, courier.attestation_public_key(enclave_host().directory))
    pinned = parse_pins(settings.QFLARE_ENCLAVE_PLATFORMS)
    policy = AppraisalPolicy(
        frozenset({attester.fingerprint}),
        frozenset({measure()}),
        pinned or _own_platform(prepared),
        vendor_roots=VENDOR_ROOTS,
    )
    appraisal = appraise(
        prepared.evidence,
        policy,
        round_id=round_id,
        federation_id=federation_id,
        range_index=range_index,
        range_count=range_count,
        now=int(now.timestamp()),
    )
    return appraisal if pinned or not policy.platforms else _without_reference(appraisal)


def _without_reference(appraisal: Appraisal) -> Appraisal:
    vector = replace(appraisal.vector, executables=WARNING)
    return replace(appraisal, tier=vector.tier, vector=vector, reasons=(NO_REFERENCE, *appraisal.reasons))


def _own_platform(prepared: courier.PreparedRound) -> frozenset[PlatformPin]:
    read = read_evidence(prepared.evidence)
    if read.hardware is None:
        return frozenset()
    report = verify_platform(read.hardware, VENDOR_ROOTS, at=read.claims.issued_at)
    return frozenset({PlatformPin.of_report(report)})


def keep_process_ready() -> None:
    """Have a warmed-up process wait in this worker for the next request of a round; see `enclave.spare_process`."""
    SPARE.keep()


def live_instance(round_id: uuid.UUID) -> EnclaveInstance:
    """Return the enclave that serves a round and signs its result. Raises `Refusal("service-unavailable")`."""
    return live_instances(round_id)[0]


def live_instances(round_id: uuid.UUID) -> list[EnclaveInstance]:
    """Return the enclaves that serve a round, in the order of their ranges. Raises `Refusal("service-unavailable")`."""
    instances = list(EnclaveInstance.objects.filter(round_id=round_id, retired_at=None).order_by("range_index"))
    if not instances:
        raise Refusal("service-unavailable", "The round's enclave is not ready; ask again later.")
    return instances


def live_key_ids(round_id: uuid.UUID) -> tuple[bytes, ...]:
    """Return the ids of the keys that devices seal to, in the order of the ranges.

    Raises `Refusal("service-unavailable")`.
    """
    return tuple(bytes(instance.key_id) for instance in live_instances(round_id))


def is_served_here(round_id: uuid.UUID) -> bool:
    """Return whether this host holds the sealing key of a round's live enclave."""
    own_key = courier.attestation_public_key(enclave_host().directory)
    return EnclaveInstance.objects.filter(round_id=round_id, retired_at=None, attestation_key=own_key).exists()


def evidence_of(round_id: uuid.UUID) -> bytes:
    """Return the evidence of the enclave that served a round last and signed its result, retired or not."""
    signers = EnclaveInstance.objects.filter(round_id=round_id, range_index=0)
    return bytes(signers.values_list("evidence", flat=True)[0])


def aggregate(
    instance: EnclaveInstance,
    given: RoundGiven,
    *,
    write_output: Callable[[str, bytes], None],
    on_step: Callable[[str, float], None],
) -> JudgedRound:
    """Run the round in a sealed successor process; return the signed result and its verified content.

    Raises `Refusal`: "too-few-updates", "conflict", "decryption-failed", "enclave-failed",
    "sealing-refused", "invalid-signature", "proof-refused" for verdicts that were not signed, "carried-rows-lost".
    """
    made = courier.aggregate_given(enclave_host(), given, write_output=write_output, on_step=on_step)
    return JudgedRound.verified(made, _result_verifier(instance))


def run_range_step(
    given: RoundGiven,
    task: RangeTask,
    *,
    write_output: Callable[[str, bytes], None] = range_courier.take_nothing,
) -> Said:
    """Run one step of a range in a sealed process and return what it says. Raises `Refusal` as `aggregate` does."""
    return range_courier.run_range_step(enclave_host(), given, task, write_output=write_output)


def conclude_ranges(
    instance: EnclaveInstance,
    given: RoundGiven,
    task: RangeTask,
    *,
    write_output: Callable[[str, bytes], None],
) -> JudgedRound:
    """Put the model together of the ranges' slices; return the signed result and its verified content.

    Raises `Refusal` as `aggregate` does.
    """
    made = range_courier.conclude_ranges(enclave_host(), given, task, write_output=write_output)
    return JudgedRound.verified(made, _result_verifier(instance))


def _result_verifier(instance: EnclaveInstance) -> Verifier:
    return Verifier(SIGNATURE_ALGORITHM, bytes(instance.result_public_key))


def retire_instance(round_id: uuid.UUID, *, now: datetime) -> None:
    """Destroy a round's wrapped keys, inside the caller's transaction; safe to repeat."""
    if EnclaveInstance.objects.filter(round_id=round_id, retired_at=None).update(retired_at=now, wrapped_keys=None):
        record_event("enclave.retired", actor="system", payload={"round_id": str(round_id)})


def destroy_retired_keys(*, now: datetime) -> None:
    """Destroy the sealing keys of retired enclaves on this host; runs on the enclave host and repeats safely.

    A round can end in a web process, or its worker can die before it gets here, so this looks for
    itself. A round that has a live enclave again keeps its sealing key.
    """
    directory = enclave_host().directory
    here = EnclaveInstance.objects.filter(attestation_key=courier.attestation_public_key(directory))
    live = EnclaveInstance.objects.filter(retired_at=None).values("round_id")
    for instance in here.filter(retired_at__isnull=False, key_destroyed_at=None).exclude(round_id__in=live):
        courier.destroy_round_key(directory, instance.round_id.bytes)
        EnclaveInstance.objects.filter(id=instance.id).update(key_destroyed_at=now)
