"""What an enclave claims of itself, and how evidence carries it (RFC 9334 section 4).

Evidence is deterministic CBOR. For the attester "software" it is {attester, attestation_key,
statement}: a COSE_Sign1 by the enclave host's ML-DSA-44 attestation key over the claims and their
report data. Whoever is root on that host can use that key, so software evidence never earns more
than the tier "warning". For hardware it is {attester, claims, evidence, endorsements, collateral}:
the platform's own evidence carries the claims' report data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qflare_protocol import hpke, pqc
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, whole_number
from qflare_protocol.ranges import MAX_RANGES

PURPOSE = "enclave evidence"
SOFTWARE = "software"
HARDWARE = ("sev-snp", "tdx", "sgx", "nitro")
SIGNATURE_ALGORITHM = "ML-DSA-44"
MIN_NONCE_BYTES, MAX_NONCE_BYTES = 16, 64
MEASUREMENT_BYTES = 64
MAX_BYTES = 1 << 16

MAX_ENDORSEMENTS = 8

SOFTWARE_ENVELOPE = frozenset({"attester", "attestation_key", "statement"})
HARDWARE_ENVELOPE = frozenset({"attester", "claims", "evidence", "endorsements", "collateral"})

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
_RANGE = frozenset({"range_index", "range_count"})


def enclave_key_id(hpke_public_key: bytes, result_public_key: bytes) -> bytes:
    """Return the 32-byte id of a round's keys, by which manifests name the enclave they are sealed to."""
    return digest("enclave key", hpke_public_key, result_public_key)[:32]


@dataclass(frozen=True)
class EnclaveClaims:
    """What one sealed process claims for one round.

    `nonce` is the challenger's (16 to 64 bytes), ids are 16 bytes, `measurement` is the 64-byte code
    measurement, `protections` says for each name in `PROTECTIONS` whether the kernel gave it,
    `issued_at` is in Unix seconds. Where several processes share the round's model, `range_index` of
    `range_count` is the range that this one works on; alone, the claims do not name it. Raises
    `Refusal("evidence-refused")` for values out of form.
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
    range_index: int = 0
    range_count: int = 1

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
        whole_number(self.range_count, 1, MAX_RANGES, what="range_count", code=_CODE)
        whole_number(self.range_index, 0, self.range_count - 1, what="range_index", code=_CODE)

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
            *(number.to_bytes(8, "big") for number in self._range),
        )

    @property
    def _range(self) -> tuple[int, ...]:
        return (self.range_index, self.range_count) if self.range_count > 1 else ()

    def to_map(self) -> dict[str, Any]:
        """Return the claims as a map for CBOR."""
        members = asdict(self) | {"policy": self.policy.to_map()}
        if not self._range:
            del members["range_index"], members["range_count"]
        return members

    @classmethod
    def from_map(cls, value: object) -> "EnclaveClaims":
        """Read claims strictly. Raises `Refusal`: "evidence-refused", "policy-refused" or "invalid-key"."""
        shared = isinstance(value, dict) and "range_count" in value
        members = dict(exact_map(value, _MEMBERS | _RANGE if shared else _MEMBERS, what="evidence", code=_CODE))
        if shared:
            whole_number(members["range_count"], 2, MAX_RANGES, what="range_count, where it is named,", code=_CODE)
        members["policy"] = AggregationPolicy.from_map(members["policy"])
        return cls(**members)


def sign_software_evidence(claims: EnclaveClaims, attester: Signer) -> bytes:
    """Return evidence over the claims by the enclave host's own attestation key."""
    statement = {"claims": claims.to_map(), "report_data": claims.report_data}
    signed = sign1(attester, statement, purpose=PURPOSE)
    return encode({"attester": SOFTWARE, "attestation_key": attester.public, "statement": signed})


@dataclass(frozen=True)
class HardwareEvidence:
    """What a platform gave for the claims.

    - attester: out of `HARDWARE`; it says how `evidence` is laid out.
    - evidence: report, quote or document, as the platform wrote it.
    - endorsements: DER certificates that the evidence does not carry itself, leaf first.
    - collateral: Intel's signed statements on TCBs as JSON, or None.
    """

    attester: str
    evidence: bytes
    endorsements: tuple[bytes, ...] = ()
    collateral: bytes | None = None


@dataclass(frozen=True)
class ReadEvidence:
    """Evidence taken apart, nothing of it verified: either the software attester's parts or `hardware` are there."""

    attester: str
    claims: EnclaveClaims
    attestation_key: bytes | None = None
    statement: bytes | None = None
    hardware: HardwareEvidence | None = None


def encode_hardware_evidence(claims: EnclaveClaims, given: HardwareEvidence) -> bytes:
    """Return evidence of the claims by the platform's own evidence, whose report data must be theirs."""
    return encode(asdict(given) | {"claims": claims.to_map(), "endorsements": list(given.endorsements)})


def read_evidence(evidence: bytes) -> ReadEvidence:
    """Return evidence that nobody has appraised.

    For whoever carries it, and for a verifier that pins on first use: it must appraise the same
    evidence against its new pins. Raises `Refusal` as `appraise` does for evidence out of form.
    """
    decoded = decode(evidence, what="evidence", maximum_bytes=MAX_BYTES)
    attester = decoded.get("attester") if isinstance(decoded, dict) else None
    if attester == SOFTWARE:
        return _read_software(exact_map(decoded, SOFTWARE_ENVELOPE, what="evidence", code=_CODE))
    if attester in HARDWARE:
        return _read_hardware(exact_map(decoded, HARDWARE_ENVELOPE, what="evidence", code=_CODE))
    raise Refusal(_CODE, "No verifier here knows the attester that made the evidence.")


def _read_software(envelope: Mapping[str, Any]) -> ReadEvidence:
    if not all(isinstance(envelope[name], bytes) for name in ("attestation_key", "statement")):
        raise Refusal(_CODE, "The attestation key and the statement must be bytes.")
    attestation_key = pqc.signature(SIGNATURE_ALGORITHM).check_public_key(envelope["attestation_key"])
    signed = unverified_payload(envelope["statement"], purpose=PURPOSE, maximum_bytes=MAX_BYTES)
    statement = exact_map(signed, frozenset({"claims", "report_data"}), what="statement", code=_CODE)
    claims = EnclaveClaims.from_map(statement["claims"])
    if claims.report_data != statement["report_data"]:
        raise Refusal(_CODE, "The report data does not belong to the claims.")
    return ReadEvidence(SOFTWARE, claims, attestation_key, envelope["statement"])


def _read_hardware(envelope: Mapping[str, Any]) -> ReadEvidence:
    endorsements, collateral = envelope["endorsements"], envelope["collateral"]
    if not isinstance(endorsements, list) or len(endorsements) > MAX_ENDORSEMENTS:
        raise Refusal(_CODE, f"The endorsements must be a list of at most {MAX_ENDORSEMENTS}.")
    if not all(isinstance(part, bytes) for part in (envelope["evidence"], *endorsements)):
        raise Refusal(_CODE, "The platform's evidence and its endorsements must be bytes.")
    if collateral is not None and not isinstance(collateral, bytes):
        raise Refusal(_CODE, "The collateral must be bytes or null.")
    given = HardwareEvidence(envelope["attester"], envelope["evidence"], tuple(endorsements), collateral)
    return ReadEvidence(given.attester, EnclaveClaims.from_map(envelope["claims"]), hardware=given)


def _check_protections(protections: object) -> None:
    if not isinstance(protections, dict) or set(protections) != set(PROTECTIONS):
        raise Refusal(_CODE, "The evidence must say for every known protection whether it holds.")
    if not all(isinstance(held, bool) for held in protections.values()):
        raise Refusal(_CODE, "The evidence must say true or false for every protection.")
