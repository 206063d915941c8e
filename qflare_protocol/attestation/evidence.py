"""What an enclave claims of itself, and the software attester's signature over it (RFC 9334 section 4).

Evidence is deterministic CBOR {attester, attestation_key, statement}. For the attester "software"
the statement is a COSE_Sign1 by the enclave host's ML-DSA-44 attestation key over the claims and
their report data. Whoever is root on that host can use that key, so software evidence never earns
more than the tier "warning".
"""

from dataclasses import asdict, dataclass
from typing import Any

from qflare_protocol import hpke, pqc
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, whole_number

PURPOSE = "enclave evidence"
SOFTWARE = "software"
SIGNATURE_ALGORITHM = "ML-DSA-44"
MIN_NONCE_BYTES, MAX_NONCE_BYTES = 16, 64
MEASUREMENT_BYTES = 64
MAX_BYTES = 1 << 16

ENVELOPE = frozenset({"attester", "attestation_key", "statement"})

_CODE = "evidence-refused"
_MEMBERS = frozenset(
    {
        "nonce",
        "round_id",
        "federation_id",
        "hpke_public_key",
        "result_public_key",
        "measurement",
        "policy",
        "protections",
        "issued_at",
    }
)


def enclave_key_id(hpke_public_key: bytes, result_public_key: bytes) -> bytes:
    """Return the 32-byte id of a round's keys, by which manifests name the enclave they are sealed to."""
    return digest("enclave key", hpke_public_key, result_public_key)[:32]


@dataclass(frozen=True)
class EnclaveClaims:
    """What one sealed process claims for one round.

    `nonce` is the challenger's (16 to 64 bytes), ids are 16 bytes, `measurement` is the 64-byte code
    measurement, `protections` says for each name in `PROTECTIONS` whether the kernel gave it,
    `issued_at` is in Unix seconds. Raises `Refusal("evidence-refused")` for values out of form.
    """

    nonce: bytes
    round_id: bytes
    federation_id: bytes
    hpke_public_key: bytes
    result_public_key: bytes
    measurement: bytes
    policy: AggregationPolicy
    protections: dict[str, bool]
    issued_at: int

    def __post_init__(self) -> None:
        if not isinstance(self.nonce, bytes) or not MIN_NONCE_BYTES <= len(self.nonce) <= MAX_NONCE_BYTES:
            raise Refusal(_CODE, f"The nonce must be {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES} bytes.")
        exact_bytes(self.round_id, 16, what="round_id of the evidence", code=_CODE)
        exact_bytes(self.federation_id, 16, what="federation_id of the evidence", code=_CODE)
        exact_bytes(self.measurement, MEASUREMENT_BYTES, what="measurement of the evidence", code=_CODE)
        hpke.check_public_key(self.hpke_public_key)
        pqc.signature(SIGNATURE_ALGORITHM).check_public_key(self.result_public_key)
        whole_number(self.issued_at, 0, 1 << 40, what="issued_at of the evidence", code=_CODE)
        _check_protections(self.protections)

    @property
    def key_id(self) -> bytes:
        """The id of the round's keys."""
        return enclave_key_id(self.hpke_public_key, self.result_public_key)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that a hardware quote carries: everything a device relies on, hashed."""
        return digest(
            PURPOSE,
            self.nonce,
            self.round_id,
            self.federation_id,
            self.hpke_public_key,
            self.result_public_key,
            self.measurement,
            self.policy.digest(),
            encode(self.protections),
            self.issued_at.to_bytes(8, "big"),
        )

    def to_map(self) -> dict[str, Any]:
        """Return the claims as a map for CBOR."""
        return asdict(self) | {"policy": self.policy.to_map()}

    @classmethod
    def from_map(cls, value: object) -> "EnclaveClaims":
        """Read claims strictly. Raises `Refusal`: "evidence-refused", "policy-refused" or "invalid-key"."""
        members = dict(exact_map(value, _MEMBERS, what="evidence", code=_CODE))
        members["policy"] = AggregationPolicy.from_map(members["policy"])
        return cls(**members)


def sign_software_evidence(claims: EnclaveClaims, attester: Signer) -> bytes:
    """Return evidence over the claims by the enclave host's own attestation key."""
    statement = {"claims": claims.to_map(), "report_data": claims.report_data}
    signed = sign1(attester, statement, purpose=PURPOSE)
    return encode({"attester": SOFTWARE, "attestation_key": attester.public, "statement": signed})


def unverified_claims(evidence: bytes) -> tuple[bytes, EnclaveClaims]:
    """Return the attestation key and the claims of evidence that nobody has appraised.

    For a verifier that pins on first use: it must appraise the same evidence against its new pins.
    Raises as `appraise` does for evidence out of form.
    """
    decoded = decode(evidence, what="evidence", maximum_bytes=MAX_BYTES)
    envelope = exact_map(decoded, ENVELOPE, what="evidence", code=_CODE)
    attestation_key = pqc.signature(SIGNATURE_ALGORITHM).check_public_key(envelope["attestation_key"])
    if not isinstance(envelope["statement"], bytes):
        raise Refusal(_CODE, "The statement must be bytes.")
    signed = unverified_payload(envelope["statement"], purpose=PURPOSE, maximum_bytes=MAX_BYTES)
    statement = exact_map(signed, frozenset({"claims", "report_data"}), what="statement", code=_CODE)
    return attestation_key, EnclaveClaims.from_map(statement["claims"])


def _check_protections(protections: object) -> None:
    if not isinstance(protections, dict) or set(protections) != set(PROTECTIONS):
        raise Refusal(_CODE, "The evidence must say for every known protection whether it holds.")
    if not all(isinstance(held, bool) for held in protections.values()):
        raise Refusal(_CODE, "The evidence must say true or false for every protection.")
