import dataclasses

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, sign1
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import (
    NORM_ABOVE_BOUND,
    PURPOSE,
    RosterEntry,
    RoundResult,
    Scores,
    UpdateVerdict,
    result_digest,
    roster_digest,
    sign_result,
    verify_result,
)
from qflare_protocol.staleness import OlderBase


def signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


ENCLAVE, MALLORY = signer(), signer()
ACCEPTED = UpdateVerdict(b"a" * 16, b"d" * 64, b"c" * 32, accepted=True, scores=Scores(1.0, 1, 0.5, 0.25))
REJECTED = UpdateVerdict(b"b" * 16, b"d" * 64, None, accepted=False, reason="invalid-signature", detail="Not alice's.")
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
    verdicts=(ACCEPTED, REJECTED),
)


def assert_refused(code, action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    assert caught.value.code == code


def test_a_signed_result_verifies_and_reads_back():
    signed = sign_result(RESULT, ENCLAVE)
    assert verify_result(signed, ENCLAVE.verifier) == RESULT
    assert len(result_digest(signed)) == 64


def test_a_result_tells_accepted_from_rejected():
    assert RESULT.accepted == (ACCEPTED,)
    assert RESULT.rejected == (REJECTED,)


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
        {"verdicts": None},
        {"verdicts": [[]]},
        {"verdicts": [{}]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_result_out_of_form_is_refused_although_signed(change):
    signed = sign1(ENCLAVE, RESULT.to_map() | change, purpose=PURPOSE)
    assert_refused("malformed-message", verify_result, signed, ENCLAVE.verifier)


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": b"short"},
        {"manifest_digest": b"d" * 32},
        {"ciphertext_digest": b"c"},
        {"accepted": 1},
        {"accepted": False},
        {"reason": "invalid-signature"},
        {"accepted": False, "reason": "dislike"},
        {"detail": ""},
        {"detail": "x" * 301},
    ],
    ids=str,
)
def test_a_verdict_out_of_form_is_refused(change):
    assert_refused("malformed-message", dataclasses.replace, ACCEPTED, **change)


@pytest.mark.parametrize(
    "change", [{"norm": -1.0}, {"cosine": 1.5}, {"weight": 2.0}, {"norm_ratio": float("nan")}], ids=str
)
def test_scores_out_of_range_are_refused(change):
    assert_refused("malformed-message", dataclasses.replace, ACCEPTED.scores, **change)


def test_a_screening_reason_is_a_reason():
    assert dataclasses.replace(ACCEPTED, accepted=False, reason=NORM_ABOVE_BOUND).reason == NORM_ABOVE_BOUND


def test_the_roster_digest_depends_on_members_and_keys_and_not_on_order():
    alice, bob = RosterEntry(b"a" * 16, ENCLAVE.verifier), RosterEntry(b"b" * 16, MALLORY.verifier)
    assert roster_digest([alice, bob]) == roster_digest([bob, alice])
    swapped = [RosterEntry(b"a" * 16, MALLORY.verifier), RosterEntry(b"b" * 16, ENCLAVE.verifier)]
    other_algorithm = [RosterEntry(b"a" * 16, Verifier("ML-DSA-65", ENCLAVE.public)), bob]
    rosters = ([alice, bob], [alice], [alice, bob, bob], swapped, other_algorithm)
    assert len({roster_digest(roster) for roster in rosters}) == len(rosters)


def test_a_result_with_stale_updates_reads_back_and_one_without_does_not_name_them():
    bases = (OlderBase(b"1" * 32, 1), OlderBase(b"4" * 32, 4))
    stale = dataclasses.replace(ACCEPTED, staleness=4)
    result = dataclasses.replace(RESULT, verdicts=(stale, REJECTED), older_bases=bases)
    assert verify_result(sign_result(result, ENCLAVE), ENCLAVE.verifier) == result
    assert result.to_map()["older_bases"] == [[b"1" * 32, 1], [b"4" * 32, 4]]
    assert "older_bases" not in RESULT.to_map()
    assert all("staleness" not in verdict for verdict in RESULT.to_map()["verdicts"])


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


@pytest.mark.parametrize("staleness", [0, 1, 65, True, 1.0, None])
def test_a_staleness_that_no_older_base_has_is_refused(staleness):
    verdicts = [ACCEPTED.to_map() | {"staleness": staleness}]
    bases = [[b"2" * 32, 2]]
    signed = sign1(ENCLAVE, RESULT.to_map() | {"verdicts": verdicts, "older_bases": bases}, purpose=PURPOSE)
    assert_refused("malformed-message", verify_result, signed, ENCLAVE.verifier)
