import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import merkle
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from qflare_protocol.round_verdicts import (
    NORM_ABOVE_BOUND,
    Scores,
    UpdateVerdict,
    VerdictProof,
    encode_verdicts,
    leaves_of,
    verdict_proofs,
    verdicts_root,
)

ACCEPTED = UpdateVerdict(b"a" * 16, b"d" * 64, b"c" * 32, accepted=True, scores=Scores(1.0, 1, 0.5, 0.25))
REJECTED = UpdateVerdict(b"b" * 16, b"d" * 64, None, accepted=False, reason="invalid-signature", detail="Not alice's.")


def assert_refused(code, action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    assert caught.value.code == code


def leaves(count):
    return [dataclasses.replace(ACCEPTED, device_id=number.to_bytes(16)).encoded() for number in range(count)]


@pytest.mark.parametrize("verdict", [ACCEPTED, REJECTED, dataclasses.replace(ACCEPTED, staleness=4)])
def test_a_verdict_reads_back(verdict):
    assert UpdateVerdict.decoded(verdict.encoded()) == verdict


def test_a_verdict_on_an_update_to_the_newest_model_does_not_name_its_staleness():
    assert b"staleness" not in ACCEPTED.encoded()
    members = dataclasses.asdict(ACCEPTED)
    for staleness in (0, 65, True, 1.0, None):
        assert_refused("malformed-message", UpdateVerdict.decoded, encode(members | {"staleness": staleness}))


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


def test_a_list_of_verdicts_keeps_their_order():
    assert leaves_of(encode_verdicts([REJECTED, ACCEPTED])) == [REJECTED.encoded(), ACCEPTED.encoded()]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
def test_every_verdict_is_proved_under_the_root_and_at_its_place_alone(count):
    proofs, root = verdict_proofs(leaves(count)), verdicts_root(leaves(count))
    for number, proof in enumerate(proofs):
        assert proof.verdict_under(root, count).device_id == number.to_bytes(16)
        assert VerdictProof.from_map(proof.to_map()) == proof
        moved = dataclasses.replace(proof, index=(number + 1) % (count + 1))
        assert_refused("proof-refused", moved.verdict_under, root, count)
        assert_refused("proof-refused", proof.verdict_under, merkle.EMPTY_ROOT, count)


@given(st.integers(1, 40), st.data())
def test_another_verdict_or_path_is_never_proved(count, data):
    number = data.draw(st.integers(0, count - 1))
    proof, root = verdict_proofs(leaves(count))[number], verdicts_root(leaves(count))
    other = dataclasses.replace(REJECTED, device_id=number.to_bytes(16))
    assert_refused("proof-refused", dataclasses.replace(proof, leaf=other.encoded()).verdict_under, root, count)
    if proof.path:
        place = data.draw(st.integers(0, len(proof.path) - 1))
        path = [*proof.path]
        path[place] = bytes(32)
        assert_refused("proof-refused", dataclasses.replace(proof, path=tuple(path)).verdict_under, root, count)
        assert_refused("proof-refused", dataclasses.replace(proof, path=proof.path[:-1]).verdict_under, root, count)


@pytest.mark.parametrize(
    "change",
    [{"index": -1}, {"index": True}, {"path": None}, {"path": [b"short"]}, {"path": [bytes(32)] * 65}, {"more": 1}],
    ids=str,
)
def test_a_proof_out_of_form_is_refused(change):
    proof = verdict_proofs(leaves(3))[1]
    assert_refused("malformed-message", VerdictProof.from_map, proof.to_map() | change)
