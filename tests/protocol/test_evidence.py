import dataclasses

import pytest

from qflare_protocol import hpke, pqc
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.attestation import (
    AppraisalPolicy,
    EnclaveClaims,
    appraise,
    enclave_key_id,
    sign_software_evidence,
)
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal

NOW = 1_800_000_000
ROUND, FEDERATION, NONCE = b"r" * 16, b"f" * 16, b"n" * 32


def signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


HOST, MALLORY, RESULT = signer(), signer(), signer()
CLAIMS = EnclaveClaims(
    nonce=NONCE,
    round_id=ROUND,
    federation_id=FEDERATION,
    hpke_public_key=hpke.generate().public,
    result_public_key=RESULT.public,
    measurement=b"m" * 64,
    policy=AggregationPolicy(minimum_updates=4),
    protections=dict.fromkeys(PROTECTIONS, True),
    issued_at=NOW,
)
EVIDENCE = sign_software_evidence(CLAIMS, HOST)
POLICY = AppraisalPolicy(frozenset({HOST.fingerprint}), frozenset({CLAIMS.measurement}))


def appraised(evidence=EVIDENCE, policy=POLICY, **changes):
    given = {"round_id": ROUND, "federation_id": FEDERATION, "now": NOW + 60, "nonce": NONCE} | changes
    return appraise(evidence, policy, **given)


def assert_refused(code="evidence-refused", because="", **arguments):
    with pytest.raises(Refusal) as caught:
        appraised(**arguments)
    assert caught.value.code == code
    assert because in caught.value.detail


def with_statement(**changes):
    """Evidence honestly signed over other claims than a sealed process would make."""
    statement = {"claims": CLAIMS.to_map() | changes, "report_data": CLAIMS.report_data}
    signed = sign1(HOST, statement, purpose="enclave evidence")
    return encode({"attester": "software", "attestation_key": HOST.public, "statement": signed})


def test_good_software_evidence_is_believed_and_never_more_than_a_warning():
    appraisal = appraised()
    assert appraisal.claims == CLAIMS
    assert appraisal.tier == "warning"
    assert any("root" in reason for reason in appraisal.reasons)
    assert appraisal.to_map()["ear.status"] == "warning"
    assert appraisal.to_map()["enclave_key_id"] == CLAIMS.key_id.hex()


def test_the_nonce_matters_only_to_the_one_who_challenged():
    assert appraised(nonce=None).tier == "warning"
    assert_refused(because="another challenge", nonce=b"x" * 32)


def test_what_the_kernel_did_not_give_is_named():
    claims = dataclasses.replace(CLAIMS, protections=CLAIMS.protections | {"namespaces": False})
    evidence = sign_software_evidence(claims, HOST)
    assert "The kernel did not give namespaces." in appraised(evidence).reasons
    strict = dataclasses.replace(POLICY, required_protections=frozenset({"namespaces"}))
    assert_refused(because="without namespaces", evidence=evidence, policy=strict)


def test_evidence_that_lacks_what_its_own_policy_demands_is_refused():
    policy = AggregationPolicy(minimum_updates=4, required_protections=("seccomp",))
    claims = dataclasses.replace(CLAIMS, policy=policy, protections=CLAIMS.protections | {"seccomp": False})
    assert_refused(because="without seccomp", evidence=sign_software_evidence(claims, HOST))


def test_evidence_below_the_tier_that_its_own_policy_demands_is_refused():
    policy = AggregationPolicy(minimum_updates=4, required_tier="separate")
    claims = dataclasses.replace(CLAIMS, policy=policy, protections=CLAIMS.protections | {"namespaces": False})
    assert appraised(sign_software_evidence(claims, HOST)).tier == "warning"
    lower = dataclasses.replace(claims, protections=CLAIMS.protections | {"own-uid": False})
    assert_refused(because="without own-uid", evidence=sign_software_evidence(lower, HOST))


@pytest.mark.parametrize(
    "policy, because",
    [
        (AppraisalPolicy(frozenset(), frozenset({CLAIMS.measurement})), "not one that is pinned"),
        (AppraisalPolicy(frozenset({MALLORY.fingerprint}), frozenset({CLAIMS.measurement})), "not one that is pinned"),
        (AppraisalPolicy(frozenset({HOST.fingerprint}), frozenset()), "code that is not allowed"),
        (AppraisalPolicy(frozenset({HOST.fingerprint}), frozenset({b"x" * 64})), "code that is not allowed"),
        (dataclasses.replace(POLICY, minimum_updates=5), "would aggregate 4"),
        (dataclasses.replace(POLICY, accepted_tiers=frozenset({"affirming"})), "tier warning"),
        (dataclasses.replace(POLICY, accepted_tiers=frozenset()), "tier warning"),
    ],
)
def test_evidence_short_of_the_verifiers_policy_is_refused(policy, because):
    assert_refused(policy=policy, because=because)


def test_evidence_for_another_round_or_federation_is_refused():
    assert_refused(because="another round", round_id=b"x" * 16)
    assert_refused(because="another federation", federation_id=b"x" * 16)


def test_old_evidence_and_evidence_from_the_future_are_refused():
    assert appraised(now=NOW + 86_400).tier == "warning"
    assert_refused(because="older", now=NOW + 86_401)
    assert appraised(now=NOW - 300).tier == "warning"
    assert_refused(because="future", now=NOW - 301)


def test_mallory_cannot_sign_in_the_hosts_name():
    forged = decode(sign_software_evidence(CLAIMS, MALLORY), what="evidence") | {"attestation_key": HOST.public}
    assert_refused("invalid-signature", evidence=encode(forged))


def test_report_data_of_other_claims_is_refused():
    assert_refused(because="report data", evidence=with_statement(measurement=b"x" * 64))


@pytest.mark.parametrize(
    "change, code",
    [
        ({"nonce": b"short"}, "evidence-refused"),
        ({"round_id": b""}, "evidence-refused"),
        ({"measurement": b"m" * 63}, "evidence-refused"),
        ({"issued_at": -1}, "evidence-refused"),
        ({"issued_at": 1.5}, "evidence-refused"),
        ({"protections": {}}, "evidence-refused"),
        ({"protections": dict.fromkeys(PROTECTIONS, 1)}, "evidence-refused"),
        ({"more": 1}, "evidence-refused"),
        ({"hpke_public_key": bytes(1665)}, "invalid-key"),
        ({"result_public_key": bytes(1312)}, "invalid-key"),
        ({"policy": CLAIMS.policy.to_map() | {"minimum_updates": 1}}, "policy-refused"),
    ],
    ids=str,
)
def test_claims_out_of_form_are_refused_although_signed(change, code):
    assert_refused(code, evidence=with_statement(**change))


@pytest.mark.parametrize(
    "change",
    [{"attester": "sev-snp"}, {"attester": None}, {"attestation_key": 1}, {"statement": 1}, {"more": 1}],
    ids=str,
)
def test_an_unknown_attester_or_envelope_is_refused(change):
    assert_refused(evidence=encode(decode(EVIDENCE, what="evidence") | change))


def test_arbitrary_bytes_are_refused():
    assert_refused("malformed-message", evidence=b"\xff\x00")
    assert_refused("malformed-message", evidence=bytes(1 << 17))


def test_report_data_and_key_id_depend_on_every_member_they_cover():
    changed = [
        dataclasses.replace(CLAIMS, nonce=b"x" * 32),
        dataclasses.replace(CLAIMS, round_id=b"x" * 16),
        dataclasses.replace(CLAIMS, federation_id=b"x" * 16),
        dataclasses.replace(CLAIMS, hpke_public_key=hpke.generate().public),
        dataclasses.replace(CLAIMS, result_public_key=MALLORY.public),
        dataclasses.replace(CLAIMS, measurement=b"x" * 64),
        dataclasses.replace(CLAIMS, policy=AggregationPolicy()),
    ]
    assert len({claims.report_data for claims in [CLAIMS, *changed]}) == len(changed) + 1
    assert CLAIMS.key_id == enclave_key_id(CLAIMS.hpke_public_key, CLAIMS.result_public_key)
    assert len(CLAIMS.key_id) == 32


def test_evidence_of_a_range_is_for_that_range_alone():
    shared = dataclasses.replace(CLAIMS, range_index=1, range_count=3)
    evidence = sign_software_evidence(shared, HOST)
    assert appraised(evidence=evidence, range_index=1, range_count=3).claims == shared
    assert appraised(evidence=evidence, range_index=1, range_count=None).claims == shared
    for other in ({}, {"range_index": 0, "range_count": 3}, {"range_index": 1, "range_count": 2}, {"range_index": 1}):
        assert_refused("evidence-refused", "range", evidence=evidence, **other)
    assert_refused("evidence-refused", "range", range_count=3)


@pytest.mark.parametrize("change", [{"range_index": 3}, {"range_count": 1}, {"range_count": 17}, {"range_index": -1}])
def test_a_range_that_cannot_be_is_refused(change):
    claims = dataclasses.replace(CLAIMS, range_index=1, range_count=3)
    statement = {"claims": claims.to_map() | change, "report_data": claims.report_data}
    signed = sign1(HOST, statement, purpose="enclave evidence")
    evidence = encode({"attester": "software", "attestation_key": HOST.public, "statement": signed})
    assert_refused(evidence=evidence, range_index=1, range_count=3)
