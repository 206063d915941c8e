"""The appraisal of hardware evidence, under roots made here: bound to the claims, pinned, and of a tier."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol import hpke, pqc
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.attestation import (
    AppraisalPolicy,
    HardwareEvidence,
    PlatformPin,
    appraise,
    attestation_result,
    encode_hardware_evidence,
    sign_software_evidence,
)
from qflare_protocol.attestation.dcap_collateral import NO_COLLATERAL
from qflare_protocol.attestation.evidence import HARDWARE, read_evidence
from qflare_protocol.attestation.hardware import NO_MINIMUM
from qflare_protocol.attestation.limits import left_open
from qflare_protocol.attestation.pins import REQUIRED_REGISTERS
from qflare_protocol.attestation.roots import CLASSICAL_REASON
from qflare_protocol.attestation.trust_vector import TrustVector
from qflare_protocol.cose import Signer
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from tests.fake_evidence import CLAIMS, EVIDENCE, FEDERATION, PINS, ROUND, given_by
from tests.fake_hardware import NOW, ROOTS, Nitro

LEAST = "/min-bootloader=4/min-tee=0/min-snp=23/min-microcode=213"


def policy_of(*pins, **changes):
    platforms = frozenset(PlatformPin.parse(pin) for pin in pins)
    members = {"platforms": platforms, "vendor_roots": ROOTS} | changes
    return AppraisalPolicy(frozenset(), frozenset({CLAIMS.measurement}), **members)


def appraised(evidence, policy=None, **changes):
    policy = policy_of(*PINS.values()) if policy is None else policy
    return appraise(evidence, policy, **{"round_id": ROUND, "federation_id": FEDERATION, "now": NOW + 60} | changes)


def assert_refused(because, *arguments, code="evidence-refused", **changes):
    with pytest.raises(Refusal) as caught:
        appraised(*arguments, **changes)
    assert caught.value.code == code
    assert because in caught.value.detail


@pytest.mark.parametrize("attester", HARDWARE)
def test_a_pinned_platform_is_believed_and_what_it_leaves_open_is_said(attester):
    appraisal = appraised(EVIDENCE[attester])
    assert (appraisal.attester, appraisal.claims) == (attester, CLAIMS)
    assert set(left_open(attester)) <= set(appraisal.reasons)
    assert CLASSICAL_REASON in appraisal.reasons
    assert set(REQUIRED_REGISTERS[attester]) <= set(appraisal.registers)


def test_only_a_platform_whose_tcb_is_known_to_be_current_is_affirming():
    assert appraised(EVIDENCE["nitro"]).tier == "affirming"
    assert appraised(EVIDENCE["sev-snp"], policy_of(PINS["sev-snp"] + LEAST)).tier == "affirming"
    for attester, reason in (("sev-snp", NO_MINIMUM), ("tdx", NO_COLLATERAL), ("sgx", NO_COLLATERAL)):
        appraisal = appraised(EVIDENCE[attester])
        assert (appraisal.tier, appraisal.reasons[0]) == ("warning", reason)


def test_least_versions_that_name_only_some_leave_the_tcb_unknown():
    assert appraised(EVIDENCE["sev-snp"], policy_of(PINS["sev-snp"] + "/min-snp=23")).tier == "warning"


def test_firmware_below_the_pinned_least_versions_is_refused():
    older = PINS["sev-snp"] + "/min-bootloader=5/min-snp=24"
    assert_refused("older than the pinned least versions: bootloader, snp", EVIDENCE["sev-snp"], policy_of(older))
    assert appraised(EVIDENCE["sev-snp"], policy_of(older, PINS["sev-snp"] + LEAST)).tier == "affirming"


@pytest.mark.parametrize("attester", HARDWARE)
def test_hardware_without_a_pin_of_its_image_is_refused(attester):
    others = [pin for name, pin in PINS.items() if name != attester]
    assert_refused("image that is not pinned", EVIDENCE[attester], policy_of())
    assert_refused("image that is not pinned", EVIDENCE[attester], policy_of(*others))
    changed = PINS[attester][:-1] + ("0" if PINS[attester][-1] != "0" else "1")
    assert_refused("image that is not pinned", EVIDENCE[attester], policy_of(changed))


@pytest.mark.parametrize("attester", HARDWARE)
def test_a_platform_under_a_root_that_is_not_the_vendors_is_refused(attester):
    strict = dataclasses.replace(policy_of(*PINS.values()), vendor_roots=type(ROOTS)())
    assert_refused("not end in a root that is pinned", EVIDENCE[attester], strict)


@pytest.mark.parametrize("attester", HARDWARE)
@pytest.mark.parametrize("member", ["nonce", "round_id", "hpke_public_key", "result_public_key", "issued_at", "policy"])
def test_evidence_bound_to_other_claims_is_refused(attester, member):
    changes = {
        "nonce": b"x" * 32,
        "round_id": b"x" * 16,
        "hpke_public_key": hpke.generate().public,
        "result_public_key": pqc.signature("ML-DSA-44").generate().public,
        "issued_at": NOW + 1,
        "policy": AggregationPolicy(minimum_updates=5),
    }
    other = dataclasses.replace(CLAIMS, **{member: changes[member]})
    assert_refused("bound to other keys or claims", encode_hardware_evidence(other, given_by(attester)))


@pytest.mark.parametrize("attester", HARDWARE)
def test_evidence_under_another_platforms_name_is_refused(attester):
    for other in set(HARDWARE) - {attester}:
        renamed = dataclasses.replace(given_by(attester), attester=other)
        assert_refused("", encode_hardware_evidence(CLAIMS, renamed))


@pytest.mark.parametrize("attester", HARDWARE)
def test_what_software_evidence_must_satisfy_hardware_must_too(attester):
    evidence = EVIDENCE[attester]
    assert_refused("another round", evidence, round_id=b"x" * 16)
    assert_refused("another federation", evidence, federation_id=b"x" * 16)
    assert_refused("another challenge", evidence, nonce=b"x" * 32)
    assert_refused("older", evidence, now=NOW + 90_000)
    assert_refused("future", evidence, now=NOW - 301)
    assert_refused("not allowed", evidence, dataclasses.replace(policy_of(PINS[attester]), allowed_measurements=set()))
    assert_refused("are demanded", evidence, dataclasses.replace(policy_of(PINS[attester]), minimum_updates=5))


def test_a_document_made_at_another_time_than_it_claims_is_refused():
    late = HardwareEvidence("nitro", Nitro().document(CLAIMS.report_data, made_at=NOW + 301))
    assert_refused("another time", encode_hardware_evidence(CLAIMS, late))
    near = HardwareEvidence("nitro", Nitro().document(CLAIMS.report_data, made_at=NOW + 299))
    assert appraised(encode_hardware_evidence(CLAIMS, near)).tier == "affirming"


@pytest.mark.parametrize("attester", HARDWARE)
@pytest.mark.parametrize("issued_at", [0, 1 << 40])
def test_a_time_beyond_all_calendars_is_refused(attester, issued_at):
    claims = dataclasses.replace(CLAIMS, issued_at=issued_at)
    assert_refused("", encode_hardware_evidence(claims, given_by(attester, claims.report_data)))


def test_who_demands_affirming_evidence_takes_no_warning():
    strict = policy_of(*PINS.values(), accepted_tiers=frozenset({"affirming"}))
    assert appraised(EVIDENCE["nitro"], strict).tier == "affirming"
    assert_refused(NO_COLLATERAL, EVIDENCE["tdx"], strict)


def test_a_protection_that_the_kernel_did_not_give_lowers_the_tier():
    claims = dataclasses.replace(CLAIMS, protections=CLAIMS.protections | {"landlock": False})
    appraisal = appraised(encode_hardware_evidence(claims, given_by("nitro", claims.report_data)))
    assert appraisal.tier == "warning"
    assert appraisal.reasons[0] == "The kernel did not give landlock."
    assert appraisal.vector == TrustVector(2, 32, 2, 2, 2)


def test_who_pins_platforms_alone_takes_no_software_evidence():
    pair = pqc.signature("ML-DSA-44").generate()
    evidence = sign_software_evidence(CLAIMS, Signer("ML-DSA-44", pair.private, pair.public))
    assert_refused("not one that is pinned", evidence)


def test_endorsements_of_a_platform_that_needs_none_are_refused():
    more = dataclasses.replace(given_by("tdx"), endorsements=(b"certificate",))
    assert_refused("carries its certificates itself", encode_hardware_evidence(CLAIMS, more))


@pytest.mark.parametrize("attester", ["sev-snp", "nitro"])
def test_collateral_of_a_platform_that_knows_none_is_refused(attester):
    more = dataclasses.replace(given_by(attester), collateral=b"{}")
    assert_refused("no collateral", encode_hardware_evidence(CLAIMS, more))


def test_broken_collateral_is_refused():
    pytest.importorskip("dcap_qvl")
    more = dataclasses.replace(given_by("tdx"), collateral=b"{}")
    assert_refused("does not vouch", encode_hardware_evidence(CLAIMS, more))


@pytest.mark.parametrize(
    "change",
    [
        {"attester": "cca"}, {"attester": 1}, {"attester": ["tdx"]}, {"evidence": "text"}, {"evidence": None},
        {"endorsements": None}, {"endorsements": [1]}, {"endorsements": [b""] * 9}, {"collateral": "text"},
        {"claims": {}}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_envelope_out_of_form_is_refused(change):
    assert_refused("", encode(decode(EVIDENCE["tdx"], what="evidence") | change))


@settings(max_examples=200, deadline=None)
@given(attester=st.sampled_from(HARDWARE), evidence=st.binary(max_size=2000), collateral=st.none() | st.binary())
def test_arbitrary_evidence_in_an_envelope_is_refused(attester, evidence, collateral):
    assert_refused("", encode_hardware_evidence(CLAIMS, HardwareEvidence(attester, evidence, (), collateral)))


def test_what_is_read_is_what_was_written():
    read = read_evidence(EVIDENCE["sev-snp"])
    assert read.claims == CLAIMS
    assert len(read.hardware.endorsements) == 3
    assert encode_hardware_evidence(read.claims, read.hardware) == EVIDENCE["sev-snp"]


def test_the_result_has_the_shape_of_an_ear_also_when_it_is_contraindicated():
    expected = {"round_id": ROUND, "federation_id": FEDERATION, "now": NOW}
    good = attestation_result(EVIDENCE["nitro"], policy_of(*PINS.values()), **expected)
    assert good["ear.status"] == "affirming"
    assert good["ear.trustworthiness-vector"]["executables"] == 2
    assert good["registers"]["PCR0"] == "ee" * 48
    bad = attestation_result(EVIDENCE["nitro"], policy_of(), **expected)
    assert bad["ear.status"] == "contraindicated"
    assert bad["reasons"] == ["The platform runs an image that is not pinned here."]


def test_a_vector_is_worth_its_worst_aspect():
    assert TrustVector().tier == "none"
    assert TrustVector(2, 2, 0, 0, 2).tier == "affirming"
    assert TrustVector(2, 2, 0, 32, 2).tier == "warning"
    assert TrustVector(2, 96, 0, 32, 2).tier == "contraindicated"


def test_an_unknown_attester_is_said_to_be_unknown():
    assert "Nothing is known" in left_open("cca")[0]
