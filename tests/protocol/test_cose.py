"""Signed structures: bound to key, algorithm, purpose, context and every byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, key_fingerprint, sign1, unverified_payload, verify1
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal


def new_signer(algorithm="ML-DSA-44"):
    pair = pqc.signature(algorithm).generate()
    return Signer(algorithm, pair.private, pair.public)


SIGNER, OTHER = new_signer(), new_signer()
PAYLOAD = {"round": 7, "name": "alice"}
SIGNED = sign1(SIGNER, PAYLOAD, purpose="test", bound_to=b"transcript")


def refused(code, signed, verifier=SIGNER.verifier, purpose="test", bound_to=b"transcript", **options):
    with pytest.raises(Refusal) as caught:
        verify1(verifier, signed, purpose=purpose, bound_to=bound_to, **options)
    assert caught.value.code in code


def test_what_was_signed_comes_back():
    assert verify1(SIGNER.verifier, SIGNED, purpose="test", bound_to=b"transcript") == PAYLOAD
    assert unverified_payload(SIGNED, purpose="test") == PAYLOAD


def test_the_layout_is_cose_sign1():
    protected, unprotected, payload, signature = decode(SIGNED, what="structure")
    assert decode(protected, what="header") == {1: -48, 4: SIGNER.fingerprint}
    assert (unprotected, payload, len(signature)) == ({}, encode(PAYLOAD), 2420)


def test_another_purpose_binding_or_key_is_refused():
    refused({"invalid-signature"}, SIGNED, purpose="tests")
    refused({"invalid-signature"}, SIGNED, bound_to=b"")
    refused({"invalid-signature"}, SIGNED, bound_to=b"transcripts")
    refused({"invalid-signature"}, SIGNED, OTHER.verifier)


def test_another_algorithm_is_refused():
    other = new_signer("ML-DSA-65")
    refused({"invalid-signature"}, sign1(other, PAYLOAD, purpose="test", bound_to=b"transcript"))
    refused({"invalid-signature"}, SIGNED, other.verifier)


def test_a_header_that_names_our_key_over_anothers_signature_is_refused():
    disguised = Signer(SIGNER.algorithm, OTHER.private, SIGNER.public)
    refused({"invalid-signature"}, sign1(disguised, PAYLOAD, purpose="test", bound_to=b"transcript"))


@pytest.mark.parametrize("header", [{}, {1: -48}, {1: -49, 4: SIGNER.fingerprint}, {1: -48, 4: bytes(32)},
                                    {1: -48, 4: SIGNER.fingerprint, 2: []}, [], 1])  # fmt: skip
def test_another_protected_header_is_refused(header):
    _, unprotected, payload, signature = decode(SIGNED, what="structure")
    refused({"invalid-signature"}, encode([encode(header), unprotected, payload, signature]))


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(position, change):
    changed = bytearray(SIGNED)
    changed[position] ^= change
    refused({"invalid-signature", "malformed-message"}, bytes(changed))


@given(st.integers(0, len(SIGNED) - 1))
def test_a_truncated_structure_is_refused(length):
    refused({"malformed-message"}, SIGNED[:length])


def parts(**changes):
    members = dict(zip(("protected", "unprotected", "payload", "signature"), decode(SIGNED, what="s"), strict=True))
    return encode(list((members | changes).values()))


@pytest.mark.parametrize(
    "signed",
    [
        parts(unprotected={4: b"kid"}), parts(unprotected=[]), parts(unprotected=None), parts(payload=None),
        parts(payload=PAYLOAD), parts(protected={}), parts(protected=b""), parts(protected=b"\xff"),
        parts(signature="text"), parts(signature=None), parts(more=1), encode([]), encode({}), encode(None), b"",
        b"\xd2" + SIGNED,
    ],
)  # fmt: skip
def test_another_layout_is_refused_before_and_after_the_signer_is_known(signed):
    refused({"malformed-message"}, signed)
    with pytest.raises(Refusal, match="malformed-message"):
        unverified_payload(signed, purpose="test")


@pytest.mark.parametrize("signature", [b"", bytes(2420), bytes(2419), bytes(3309)])
def test_another_signature_is_refused(signature):
    refused({"invalid-signature"}, parts(signature=signature))


def test_a_structure_is_bounded():
    refused({"malformed-message"}, SIGNED, maximum_bytes=len(SIGNED) - 1)


def test_a_signed_payload_out_of_form_is_refused():
    algorithm = pqc.signature("ML-DSA-44")
    from qflare_protocol import cose

    protected = encode({1: -48, 4: SIGNER.fingerprint})
    to_be_signed = cose._to_be_signed(protected, b"\xff", "test", b"")
    signed = encode([protected, {}, b"\xff", algorithm.sign(SIGNER.private, to_be_signed)])
    refused({"malformed-message"}, signed, bound_to=b"")


def test_a_fingerprint_names_algorithm_and_key():
    assert len(SIGNER.fingerprint) == 32
    assert key_fingerprint("ML-DSA-44", b"k") != key_fingerprint("ML-DSA-65", b"k")
    assert SIGNER.verifier == Verifier("ML-DSA-44", SIGNER.public)
    assert SIGNER.verifier.fingerprint == SIGNER.fingerprint


def test_the_private_key_does_not_show():
    assert SIGNER.private.hex() not in repr(SIGNER) + str(SIGNER)
    assert repr(SIGNER.private) not in repr(SIGNER)
