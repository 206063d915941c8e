"""The verifier: what a device makes of an enclave's evidence before it seals anything (RFC 9334).

It fails closed: without a pinned attestation key and an allowed measurement nothing is accepted.
The result has the shape of an EAR (draft-ietf-rats-ear): a tier, the claims, and the reasons.
"""

from dataclasses import dataclass, field
from typing import Any

from qflare_protocol.attestation.evidence import MAX_BYTES, PURPOSE, SIGNATURE_ALGORITHM, SOFTWARE, EnclaveClaims
from qflare_protocol.cose import Verifier, verify1
from qflare_protocol.encoding import decode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_map
from qflare_protocol.sealing_tier import missing_protections

TIERS = ("affirming", "warning")
CLOCK_TOLERANCE_SECONDS = 300
SOFTWARE_REASON = "Software evidence: whoever is root on the enclave host can forge it and read its memory."

_CODE = "evidence-refused"


@dataclass(frozen=True)
class AppraisalPolicy:
    """What a verifier demands.

    - trusted_attestation_keys: 32-byte fingerprints (`cose.key_fingerprint`) of attestation keys.
    - allowed_measurements: 64-byte code measurements.
    - minimum_updates: least `minimum_updates` that the enclave's own policy must state.
    - accepted_tiers: out of `TIERS`; without "warning", hardware evidence is demanded.
    - required_protections: protections that the evidence must claim.
    - maximum_age_seconds: oldest evidence accepted.
    """

    trusted_attestation_keys: frozenset[bytes]
    allowed_measurements: frozenset[bytes]
    minimum_updates: int = 3
    accepted_tiers: frozenset[str] = frozenset(TIERS)
    required_protections: frozenset[str] = field(default_factory=frozenset)
    maximum_age_seconds: int = 86_400


@dataclass(frozen=True)
class Appraisal:
    """The verifier's result: tier, the claims it now believes, and the reasons that lowered the tier."""

    tier: str
    attester: str
    claims: EnclaveClaims
    reasons: tuple[str, ...]

    def to_map(self) -> dict[str, Any]:
        """Return what a console shows, as JSON values."""
        return {
            "ear.status": self.tier,
            "attester": self.attester,
            "reasons": list(self.reasons),
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
) -> Appraisal:
    """Return the appraisal of evidence for that round, `now` in Unix seconds.

    `nonce` is given by a verifier that challenged the enclave itself. Raises
    `Refusal("evidence-refused")` saying exactly what is not satisfied, and "malformed-message",
    "invalid-signature", "invalid-key" or "policy-refused" for evidence that is broken in itself.
    """
    claims = _software_claims(evidence, policy)
    _require(claims.round_id == round_id, "The evidence is for another round.")
    _require(claims.federation_id == federation_id, "The evidence is for another federation.")
    _require(nonce is None or claims.nonce == nonce, "The evidence answers another challenge.")
    _require_fresh(claims.issued_at, now, policy.maximum_age_seconds)
    _require_policy(claims, policy)
    _require("warning" in policy.accepted_tiers, "Software evidence is of tier warning, which is not accepted here.")
    return Appraisal("warning", SOFTWARE, claims, _reasons(claims))


def _software_claims(evidence: bytes, policy: AppraisalPolicy) -> EnclaveClaims:
    decoded = decode(evidence, what="evidence", maximum_bytes=MAX_BYTES)
    members = frozenset({"attester", "attestation_key", "statement"})
    envelope = exact_map(decoded, members, what="evidence", code=_CODE)
    _require(envelope["attester"] == SOFTWARE, "No verifier here knows the attester that made the evidence.")
    _require(isinstance(envelope["attestation_key"], bytes), "The attestation key must be bytes.")
    _require(isinstance(envelope["statement"], bytes), "The statement must be bytes.")
    attester = Verifier(SIGNATURE_ALGORITHM, envelope["attestation_key"])
    trusted = attester.fingerprint in policy.trusted_attestation_keys
    _require(trusted, "The attestation key is not one that is pinned here.")
    signed = verify1(attester, envelope["statement"], purpose=PURPOSE, maximum_bytes=MAX_BYTES)
    statement = exact_map(signed, frozenset({"claims", "report_data"}), what="statement", code=_CODE)
    claims = EnclaveClaims.from_map(statement["claims"])
    _require(claims.report_data == statement["report_data"], "The report data does not belong to the claims.")
    return claims


def _require_fresh(issued_at: int, now: int, maximum_age_seconds: int) -> None:
    _require(issued_at <= now + CLOCK_TOLERANCE_SECONDS, "The evidence is from the future; check this device's clock.")
    _require(now - issued_at <= maximum_age_seconds, f"The evidence is older than {maximum_age_seconds} seconds.")


def _require_policy(claims: EnclaveClaims, policy: AppraisalPolicy) -> None:
    _require(claims.measurement in policy.allowed_measurements, "The enclave runs code that is not allowed here.")
    _require(
        claims.policy.minimum_updates >= policy.minimum_updates,
        f"The enclave would aggregate {claims.policy.minimum_updates} updates; "
        f"at least {policy.minimum_updates} are demanded.",
    )
    demanded = policy.required_protections | set(claims.policy.required_protections)
    missing = missing_protections(claims.protections, claims.policy.required_tier, demanded)
    _require(not missing, f"The enclave runs without {', '.join(missing)}.")


def _reasons(claims: EnclaveClaims) -> tuple[str, ...]:
    missing = (f"The kernel did not give {name}." for name, held in sorted(claims.protections.items()) if not held)
    return (SOFTWARE_REASON, *missing)


def _require(satisfied: bool, otherwise: str) -> None:
    if not satisfied:
        raise Refusal(_CODE, otherwise)
