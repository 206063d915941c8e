"""Software evidence of an enclave: its digests, its appraisal and its refusals."""

import dataclasses
from typing import Any

from qflare_protocol import hpke
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.attestation import AppraisalPolicy, EnclaveClaims, appraise, sign_software_evidence
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.encoding import decode, encode
from tests.vectors.parties import FEDERATION_ID, NOW, ROUND_ID, new_signer
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

NAME, ALGORITHM, MEASUREMENT = "software evidence", "ML-DSA-44", bytes(range(64, 128))


def make() -> VectorFile:
    """Make the file."""
    host = new_signer()
    claims = EnclaveClaims(
        nonce=bytes(range(32)), round_id=ROUND_ID, federation_id=FEDERATION_ID, issued_at=NOW,
        hpke_public_key=hpke.generate().public, result_public_key=new_signer().public, measurement=MEASUREMENT,
        policy=AggregationPolicy(
            minimum_updates=4, required_tier="separate", required_protections=("landlock", "seccomp"),
        ),
        protections=dict.fromkeys(PROTECTIONS, True) | {"namespaces": False},
    )  # fmt: skip
    values = _values(claims, host)
    case = Case(NAME, values)
    _add_steps(case)
    purpose = "Evidence, what it is hashed over, how a device appraises it, and evidence a device refuses."
    return VectorFile(purpose, "10 Enclave evidence", [case], _refusals(claims, host))


def _values(claims: EnclaveClaims, host: Signer) -> dict[str, Any]:
    evidence = sign_software_evidence(claims, host)
    named = ("nonce", "round_id", "federation_id", "hpke_public_key", "result_public_key", "measurement", "issued_at")
    values = {name: getattr(claims, name) for name in named}
    values |= {"policy": encode(claims.policy.to_map()), "protections": encode(claims.protections)}
    values |= {
        "evidence": evidence,
        "attestation_public": host.public,
        "attestation_algorithm": host.algorithm,
        "now": NOW + 60,
    }
    return values | {"demanded_updates": 3, "maximum_age_seconds": 86_400, "tier": "warning"}


def _add_steps(case: Case) -> None:
    signed = {"label": "enclave evidence", "algorithm": ALGORITHM, "key": "attestation_public"}
    case.fingerprint("attestation_public", algorithm="attestation_algorithm")
    case.step("member", "statement", map="evidence", member="statement", stored=False)
    case.step("sign1", structure="statement", **signed)
    case.step("digest", "policy_digest", label="aggregation policy", inputs=["policy"])
    inputs = ["nonce", "round_id", "federation_id", "hpke_public_key", "result_public_key", "measurement"]
    inputs += ["policy_digest", "protections", "issued_at"]
    case.step("digest", "report_data", label="enclave evidence", inputs=inputs)
    keys = ["hpke_public_key", "result_public_key"]
    case.step("digest", "key_id", label="enclave key", inputs=keys, length=32)


def _refusals(claims: EnclaveClaims, host: Signer) -> list[Refused]:
    stranger = new_signer()
    envelope = decode(sign_software_evidence(claims, host), what="evidence")
    forged = decode(sign_software_evidence(claims, stranger), what="evidence")

    def lacking(name: str) -> dict[str, Any]:
        less = dataclasses.replace(claims, protections=claims.protections | {name: False})
        return {"evidence": sign_software_evidence(less, host)}

    def evidence(**changes: Any) -> dict[str, Any]:
        return {"evidence": encode(envelope | changes)}

    def claiming(**changes: Any) -> dict[str, Any]:
        statement = {"claims": claims.to_map() | changes, "report_data": claims.report_data}
        return evidence(statement=sign1(host, statement, purpose="enclave evidence"))

    unequal = claims.policy.to_map() | {"minimum_updates": 2}
    code = "evidence-refused"
    rows = [
        ("a key that is not pinned", code, {"attestation_fingerprint": stranger.fingerprint}),
        ("a stranger's signature under the pinned key", "invalid-signature", evidence(statement=forged["statement"])),
        ("report data of other claims", code, claiming(measurement=bytes(64))),
        ("a measurement that is not allowed", code, {"measurement": bytes(64)}),
        ("another round", code, {"round_id": bytes(16)}),
        ("another federation", code, {"federation_id": bytes(16)}),
        ("another challenge", code, {"nonce": bytes(32)}),
        ("evidence that is too old", code, {"now": NOW + 86_401}),
        ("evidence from the future", code, {"now": NOW - 301}),
        ("fewer updates than demanded", code, {"demanded_updates": 5}),
        ("a protection its own policy demands", code, lacking("seccomp")),
        ("a protection of the sealing tier its own policy demands", code, lacking("own-uid")),
        ("a minimum of two updates", "policy-refused", claiming(policy=unequal)),
        ("a round key of zeros", "invalid-key", claiming(hpke_public_key=bytes(1665))),
        ("an attester nobody knows", code, evidence(attester="sev-snp")),
        ("no CBOR", "malformed-message", {"evidence": b"\xff"}),
    ]
    return [Refused(name, "device appraises", row_code, row, of=NAME) for name, row_code, row in rows]


def _appraise(values: dict[str, Any]) -> None:
    pins = frozenset({values["attestation_fingerprint"]}), frozenset({values["measurement"]})
    policy = AppraisalPolicy(
        *pins, minimum_updates=values["demanded_updates"], maximum_age_seconds=values["maximum_age_seconds"]
    )
    appraisal = appraise(
        values["evidence"], policy, round_id=values["round_id"], federation_id=values["federation_id"],
        now=values["now"], nonce=values["nonce"],
    )  # fmt: skip
    claims = appraisal.claims
    assert (appraisal.tier, claims.report_data, claims.key_id) == (
        values["tier"], values["report_data"], values["key_id"],
    )  # fmt: skip
    assert claims.policy.digest() == values["policy_digest"]
    assert encode(claims.protections) == values["protections"]


RECEIVERS: dict[str, Receiver] = {"device appraises": _appraise}
