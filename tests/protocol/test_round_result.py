import dataclasses

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, sign1
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import (
    PURPOSE,
    JudgedRound,
    RosterEntry,
    RoundResult,
    SignedResult,
    commitment_to,
    own_verdict,
    result_digest,
    roster_digest,
    sign_judged,
    sign_result,
    verify_result,
)
from qflare_protocol.round_verdicts import Scores, UpdateVerdict, encode_verdicts, verdict_proofs
from qflare_protocol.staleness import OlderBase


def signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


ENCLAVE, MALLORY = signer(), signer()
ACCEPTED = UpdateVerdict(b"a" * 16, b"d" * 64, b"c" * 32, accepted=True, scores=Scores(1.0, 1, 0.5, 0.25))
REJECTED = UpdateVerdict(b"b" * 16, b"d" * 64, None, accepted=False, reason="invalid-signature", detail="Not alice's.")
VERDICTS = (ACCEPTED, REJECTED)
RESULT = RoundResult(
    round_id=b"r" * 16,
    federation_id=b"f" * 16,
    enclave_key_id=b"k" * 32,
    base_model_digest=b"b" * 32,
    model_digest=b"m" * 32,
    model_bytes=100,
    rule="weighted-mean",
    carried_in=bytes(64),
    carried_out=bytes(64),
    policy_digest=b"p" * 64,
    roster_digest=b"o" * 64,
    sample_total=40,
    **commitment_to(VERDICTS),
)


def assert_refused(code, action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    assert caught.value.code == code


def test_a_signed_result_verifies_and_reads_back():
    signed = sign_result(RESULT, ENCLAVE)
    assert verify_result(signed, ENCLAVE.verifier) == RESULT
    assert len(result_digest(signed)) == 64


def test_a_judged_round_tells_accepted_from_rejected():
    judged = JudgedRound.verified(sign_judged(RESULT, VERDICTS, ENCLAVE), ENCLAVE.verifier)
    assert (judged.accepted, judged.rejected) == ((ACCEPTED,), (REJECTED,))
    assert (RESULT.accepted_count, RESULT.rejected_count) == (1, 1)


@pytest.mark.parametrize(
    ("verdicts", "claimed"),
    [
        ((ACCEPTED,), {}),
        ((REJECTED, ACCEPTED), {}),
        ((ACCEPTED, REJECTED, REJECTED), {}),
        (VERDICTS, {"accepted_count": 2}),
        (VERDICTS, {"accepted_count": 0}),
    ],
)
def test_verdicts_that_are_not_those_signed_are_refused(verdicts, claimed):
    made = SignedResult(sign_result(dataclasses.replace(RESULT, **claimed), ENCLAVE), encode_verdicts(verdicts))
    assert_refused("proof-refused", JudgedRound.verified, made, ENCLAVE.verifier)


@pytest.mark.parametrize("verdicts", [b"", b"junk", encode({}), encode([7]), encode([b"junk"]), encode([[]])])
def test_a_list_of_verdicts_out_of_form_is_refused(verdicts):
    made = SignedResult(sign_result(RESULT, ENCLAVE), verdicts)
    assert_refused("malformed-message", JudgedRound.verified, made, ENCLAVE.verifier)


def test_the_size_of_a_signed_result_does_not_depend_on_the_number_of_devices():
    many = [dataclasses.replace(ACCEPTED, device_id=number.to_bytes(16)) for number in range(2000)]
    large = sign_result(dataclasses.replace(RESULT, **commitment_to(many)), ENCLAVE)
    assert len(large) <= len(sign_result(RESULT, ENCLAVE)) + 4


def test_a_result_by_another_key_or_for_another_purpose_is_refused():
    assert_refused("invalid-signature", verify_result, sign_result(RESULT, MALLORY), ENCLAVE.verifier)
    other = sign1(ENCLAVE, RESULT.to_map(), purpose="enclave evidence")
    assert_refused("invalid-signature", verify_result, other, ENCLAVE.verifier)


@pytest.mark.parametrize(
    "change",
    [
        {"round_id": b""},
        {"model_digest": None},
        {"model_bytes": 0},
        {"sample_total": 1.5},
        {"rule": ""},
        {"verdicts_root": None},
        {"verdicts_root": b"r" * 31},
        {"verdict_count": -1},
        {"accepted_count": 3},
        {"accepted_count": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_result_out_of_form_is_refused_although_signed(change):
    signed = sign1(ENCLAVE, RESULT.to_map() | change, purpose=PURPOSE)
    assert_refused("malformed-message", verify_result, signed, ENCLAVE.verifier)


def test_the_roster_digest_depends_on_members_and_keys_and_not_on_order():
    alice, bob = RosterEntry(b"a" * 16, ENCLAVE.verifier), RosterEntry(b"b" * 16, MALLORY.verifier)
    assert roster_digest([alice, bob]) == roster_digest([bob, alice])
    swapped = [RosterEntry(b"a" * 16, MALLORY.verifier), RosterEntry(b"b" * 16, ENCLAVE.verifier)]
    other_algorithm = [RosterEntry(b"a" * 16, Verifier("ML-DSA-65", ENCLAVE.public)), bob]
    rosters = ([alice, bob], [alice], [alice, bob, bob], swapped, other_algorithm)
    assert len({roster_digest(roster) for roster in rosters}) == len(rosters)


def test_a_result_with_older_bases_reads_back_and_one_without_does_not_name_them():
    bases = (OlderBase(b"1" * 32, 1), OlderBase(b"4" * 32, 4))
    result = dataclasses.replace(RESULT, older_bases=bases)
    assert verify_result(sign_result(result, ENCLAVE), ENCLAVE.verifier) == result
    assert result.to_map()["older_bases"] == [[b"1" * 32, 1], [b"4" * 32, 4]]
    assert "older_bases" not in RESULT.to_map()


@pytest.mark.parametrize(
    "bases",
    [
        [],
        [[b"1" * 32]],
        [[b"1" * 32, 0]],
        [[b"1" * 32, 65]],
        [[b"1" * 31, 1]],
        [[b"b" * 32, 1]],
        [[b"1" * 32, 1], [b"1" * 32, 2]],
        [[b"1" * 32, 2], [b"2" * 32, 1]],
        [[b"1" * 32, 1], [b"2" * 32, 1]],
        [b"1" * 32],
        7,
        None,
    ],
)
def test_older_bases_out_of_form_are_refused(bases):
    signed = sign1(ENCLAVE, RESULT.to_map() | {"older_bases": bases}, purpose=PURPOSE)
    assert_refused("malformed-message", verify_result, signed, ENCLAVE.verifier)


@pytest.mark.parametrize("staleness", [1, 4])
def test_a_staleness_that_no_older_base_has_is_refused(staleness):
    stale = [dataclasses.replace(ACCEPTED, staleness=staleness)]
    bases = (OlderBase(b"2" * 32, 2),)
    made = sign_judged(dataclasses.replace(RESULT, older_bases=bases, **commitment_to(stale)), stale, ENCLAVE)
    assert_refused("malformed-message", JudgedRound.verified, made, ENCLAVE.verifier)


def test_a_device_reads_its_own_verdict_and_no_other():
    own, other = verdict_proofs([verdict.encoded() for verdict in VERDICTS])
    assert own_verdict(RESULT, own, ACCEPTED.device_id) == ACCEPTED
    assert_refused("proof-refused", own_verdict, RESULT, other, ACCEPTED.device_id)
    assert_refused("proof-refused", own_verdict, RESULT, dataclasses.replace(own, leaf=other.leaf), REJECTED.device_id)
