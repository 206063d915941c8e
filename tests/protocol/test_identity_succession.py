"""Cross-signed server identity keys: a pinned device follows every step, and nothing but the steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.identity_succession import (
    MAX_STATEMENTS,
    follow_succession,
    make_succession,
    resolve_identity,
)


def new_signer(algorithm="ML-DSA-44"):
    pair = pqc.signature(algorithm).generate()
    return Signer(algorithm, pair.private, pair.public)


KEYS = [new_signer() for _ in range(4)]
STEPS = [make_succession(old, new, rotated_at=1) for old, new in zip(KEYS, KEYS[1:], strict=False)]
MALLORY = new_signer()


def refused(call, *arguments):
    with pytest.raises(Refusal, match="server-not-authenticated"):
        call(*arguments)


@pytest.mark.parametrize("start", range(4))
def test_a_pinned_key_leads_to_the_current_one(start):
    assert follow_succession(KEYS[start].verifier, STEPS[start:]) == KEYS[-1].verifier
    assert resolve_identity(KEYS[start].fingerprint, KEYS[-1].verifier, STEPS[start:]) == KEYS[-1].verifier


@pytest.mark.parametrize("steps", [STEPS[1:], STEPS[::-1], [STEPS[0], STEPS[2]], [STEPS[0], STEPS[0]], [b"step"]])
def test_a_chain_with_a_gap_or_in_another_order_leads_nowhere(steps):
    refused(follow_succession, KEYS[0].verifier, steps)
    refused(resolve_identity, KEYS[0].fingerprint, KEYS[-1].verifier, steps)


def test_a_successor_that_the_pinned_key_did_not_name_is_refused():
    refused(follow_succession, KEYS[0].verifier, [make_succession(MALLORY, KEYS[1], rotated_at=1)])


def test_a_successor_that_does_not_hold_its_own_key_is_refused():
    """The old key may name any public key; without the acceptance it could name one of a stranger."""
    named = Signer(MALLORY.algorithm, new_signer().private, MALLORY.public)
    refused(follow_succession, KEYS[0].verifier, [make_succession(KEYS[0], named, rotated_at=1)])


def test_an_acceptance_belongs_to_its_succession():
    one, two = (decode(make_succession(KEYS[0], KEYS[1], rotated_at=time), what="step") for time in (1, 2))
    refused(follow_succession, KEYS[0].verifier, [encode({**one, "acceptance": two["acceptance"]})])


def test_an_acceptance_names_its_predecessor():
    succession = decode(STEPS[0], what="step")["succession"]
    bound_to = digest("identity succession", succession)
    forged = sign1(KEYS[1], {"predecessor": bytes(32)}, purpose="identity acceptance", bound_to=bound_to)
    refused(follow_succession, KEYS[0].verifier, [encode({"succession": succession, "acceptance": forged})])


def test_a_token_takes_its_own_key_or_a_successor_and_no_other():
    assert resolve_identity(KEYS[3].fingerprint, KEYS[3].verifier, []) == KEYS[3].verifier
    refused(resolve_identity, KEYS[0].fingerprint, KEYS[3].verifier, [])
    refused(resolve_identity, MALLORY.fingerprint, KEYS[3].verifier, STEPS)
    refused(resolve_identity, KEYS[0].fingerprint, MALLORY.verifier, STEPS)


@given(st.data())
def test_a_flipped_bit_anywhere_is_noticed(data):
    step = bytearray(STEPS[0])
    step[data.draw(st.integers(0, len(step) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(follow_succession, KEYS[0].verifier, [bytes(step)])


def test_a_chain_is_bounded():
    refused(follow_succession, KEYS[0].verifier, [STEPS[0]] * (MAX_STATEMENTS + 1))


def test_a_successor_has_the_algorithm_of_its_predecessor():
    with pytest.raises(ValueError, match="algorithm"):
        make_succession(KEYS[0], new_signer("ML-DSA-65"), rotated_at=1)
