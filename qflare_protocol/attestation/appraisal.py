"""The verifier: what a device makes of an enclave's evidence before it seals anything (RFC 9334).

It fails closed: without a pinned attestation key (software) or a pinned platform (hardware), and an
allowed code measurement, nothing is accepted. The result has the shape of an EAR
(draft-ietf-rats-ear): a tier, a trustworthiness vector, the claims, and the reasons.
"""

from dataclasses import dataclass, field
from typing import Any

from qflare_protocol.attestation.evidence import (
    MAX_BYTES,
    PURPOSE,
    SIGNATURE_ALGORITHM,
    SOFTWARE,
    EnclaveClaims,
    HardwareEvidence,
    ReadEvidence,
    read_evidence,
)
from qflare_protocol.attestation.hardware import PlatformAppraisal, appraise_platform
from qflare_protocol.attestation.layout import require
from qflare_protocol.attestation.limits import left_open
from qflare_protocol.attestation.pins import PlatformPin
from qflare_protocol.attestation.platform import TcbStatus
from qflare_protocol.attestation.roots import VendorRoots
from qflare_protocol.attestation.trust_vector import AFFIRMING, WARNING, TrustVector
from qflare_protocol.cose import Verifier, verify1
from qflare_protocol.errors import Refusal
from qflare_protocol.sealing_tier import missing_protections

TIERS = ("affirming", "warning")
CONTRAINDICATED = "contraindicated"
CLOCK_TOLERANCE_SECONDS = 300


@dataclass(frozen=True)
class AppraisalPolicy:
    """What a verifier demands.

    - trusted_attestation_keys: 32-byte fingerprints (`cose.key_fingerprint`) of attestation keys, for software.
    - allowed_measurements: 64-byte code measurements.
    - platforms: pinned platforms, for hardware.
    - minimum_updates: least `minimum_updates` that the enclave's own policy must state.
    - accepted_tiers: out of `TIERS`; without "warning", hardware of a current TCB is demanded.
    - required_protections: protections that the evidence must claim.
    - maximum_age_seconds: oldest evidence accepted.
    - vendor_roots: the vendors' root certificates.
    """

    trusted_attestation_keys: frozenset[bytes]
    allowed_measurements: frozenset[bytes]
    platforms: frozenset[PlatformPin] = frozenset()
    minimum_updates: int = 3
    accepted_tiers: frozenset[str] = frozenset(TIERS)
    required_protections: frozenset[str] = field(default_factory=frozenset)
    maximum_age_seconds: int = 86_400
    vendor_roots: VendorRoots = field(default_factory=VendorRoots)


@dataclass(frozen=True)
class Appraisal:
    """The verifier's result: tier, the claims it now believes, and the reasons that lowered the tier or bound it.

    `registers` are the platform's measurements by name, empty for software evidence.
    """

    tier: str
    attester: str
    claims: EnclaveClaims
    reasons: tuple[str, ...]
    vector: TrustVector
    registers: dict[str, bytes]

    def to_map(self) -> dict[str, Any]:
        """Return what a console shows, as JSON values."""
        return {
            "ear.status": self.tier,
            "ear.trustworthiness-vector": self.vector.to_map(),
            "attester": self.attester,
            "reasons": list(self.reasons),
            "registers": {name: value.hex() for name, value in self.registers.items()},
            "measurement": self.claims.measurement.hex(),
            "enclave_key_id": self.claims.key_id.hex(),
            "policy": self.claims.policy.to_map(),
            "protections": dict(self.claims.protections),
            "issued_at": self.claims.issued_at,
        }


def appraise(
    evidence: bytes,
    policy: AppraisalPolicy,
    *,
    round_id: bytes,
    federation_id: bytes,
    now: int,
    nonce: bytes | None = None,
    range_index: int = 0,
    range_count: int | None = 1,
) -> Appraisal:
    """Return the appraisal of evidence for that round, `now` in Unix seconds.

    `nonce` is given by a verifier that challenged the enclave itself; `range_index` of `range_count` is
    the range that the process is to work on, of however many where None is given. Certificates must have been
    valid when the evidence was issued. What is contraindicated raises `Refusal("evidence-refused")`
    saying exactly what is not satisfied; "malformed-message", "invalid-signature", "invalid-key" or
    "policy-refused" are of evidence that is broken in itself.
    """
    read = read_evidence(evidence)
    claims = read.claims
    platform = None if read.hardware is None else _verified_platform(claims, read.hardware, policy)
    if platform is None:
        _require_software_signature(read, policy)
    require(claims.round_id == round_id, "The evidence is for another round.")
    require(claims.federation_id == federation_id, "The evidence is for another federation.")
    require(nonce is None or claims.nonce == nonce, "The evidence answers another challenge.")
    require(claims.range_index == range_index, "The evidence is for another range of the model.")
    shared = f"The evidence is for one of {claims.range_count} ranges of the model, where {range_count} was looked for."
    require(range_count in (None, claims.range_count), shared)
    _require_fresh(claims.issued_at, now, policy.maximum_age_seconds)
    _require_policy(claims, policy)
    appraisal = _result(read, platform)
    require(appraisal.tier in policy.accepted_tiers, _tier_refusal(appraisal))
    return appraisal


def attestation_result(evidence: bytes, policy: AppraisalPolicy, **expected: Any) -> dict[str, Any]:
    """Return the EAR-like map of whatever `appraise` says, for people to read: a refusal is "contraindicated"."""
    try:
        return appraise(evidence, policy, **expected).to_map()
    except Refusal as refusal:
        return {"ear.status": CONTRAINDICATED, "code": refusal.code, "reasons": [refusal.detail]}


def _require_software_signature(read: ReadEvidence, policy: AppraisalPolicy) -> None:
    attester = Verifier(SIGNATURE_ALGORITHM, read.attestation_key or b"")
    trusted = attester.fingerprint in policy.trusted_attestation_keys
    require(trusted, "The attestation key is not one that is pinned here.")
    verify1(attester, read.statement or b"", purpose=PURPOSE, maximum_bytes=MAX_BYTES)


def _verified_platform(claims: EnclaveClaims, given: HardwareEvidence, policy: AppraisalPolicy) -> PlatformAppraisal:
    platform = appraise_platform(given, policy.platforms, policy.vendor_roots, at=claims.issued_at)
    bound = platform.report.report_data == claims.report_data
    require(bound, "The platform's evidence is bound to other keys or claims than these.")
    made_at = platform.report.made_at
    timely = made_at is None or abs(made_at - claims.issued_at) <= CLOCK_TOLERANCE_SECONDS
    require(timely, "The platform's evidence was made at another time than it claims.")
    return platform


def _require_fresh(issued_at: int, now: int, maximum_age_seconds: int) -> None:
    require(issued_at <= now + CLOCK_TOLERANCE_SECONDS, "The evidence is from the future; check this device's clock.")
    require(now - issued_at <= maximum_age_seconds, f"The evidence is older than {maximum_age_seconds} seconds.")


def _require_policy(claims: EnclaveClaims, policy: AppraisalPolicy) -> None:
    require(claims.measurement in policy.allowed_measurements, "The enclave runs code that is not allowed here.")
    require(
        claims.policy.minimum_updates >= policy.minimum_updates,
        f"The enclave would aggregate {claims.policy.minimum_updates} updates; "
        f"at least {policy.minimum_updates} are demanded.",
    )
    demanded = policy.required_protections | set(claims.policy.required_protections)
    missing = missing_protections(claims.protections, claims.policy.required_tier, demanded)
    require(not missing, f"The enclave runs without {', '.join(missing)}.")


def _result(read: ReadEvidence, platform: PlatformAppraisal | None) -> Appraisal:
    missing = [f"The kernel did not give {name}." for name, held in sorted(read.claims.protections.items()) if not held]
    configuration = WARNING if missing else AFFIRMING
    if platform is None:
        vector = TrustVector(AFFIRMING, configuration, runtime_opaque=WARNING)
        return Appraisal(vector.tier, SOFTWARE, read.claims, (*left_open(SOFTWARE), *missing), vector, {})
    hardware = AFFIRMING if platform.tcb is TcbStatus.CURRENT else WARNING
    vector = TrustVector(AFFIRMING, configuration, AFFIRMING, hardware, AFFIRMING)
    reasons = (*platform.reasons, *missing, *left_open(read.attester))
    return Appraisal(vector.tier, read.attester, read.claims, reasons, vector, platform.report.registers)


def _tier_refusal(appraisal: Appraisal) -> str:
    if appraisal.attester == SOFTWARE:
        return "Software evidence is of tier warning, which is not accepted here."
    return f"The evidence is of tier {appraisal.tier}, which is not accepted here: {appraisal.reasons[0]}"
