import dataclasses

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import (
    PURPOSE,
    Manifest,
    UpdatePart,
    manifest_digest,
    sign_manifest,
    unverified_manifest,
    verify_manifest,
)


def signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


ALICE, MALLORY = signer(), signer()
MANIFEST = Manifest(
    round_id=b"r" * 16,
    federation_id=b"f" * 16,
    device_id=b"a" * 16,
    base_model_digest=b"b" * 32,
    sample_count=120,
    ciphertext_digest=b"c" * 32,
    ciphertext_bytes=5000,
    enclave_key_id=b"k" * 32,
    metrics={"loss": 0.25, "accuracy": 1},
)


def assert_refused(code, action, *arguments):
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    assert caught.value.code == code


def test_a_signed_manifest_verifies_and_reads_back():
    signed = sign_manifest(MANIFEST, ALICE)
    assert verify_manifest(signed, ALICE.verifier) == MANIFEST
    assert unverified_manifest(signed) == MANIFEST
    assert len(manifest_digest(signed)) == 64


def test_a_manifest_signed_by_mallory_is_refused():
    assert_refused("invalid-signature", verify_manifest, sign_manifest(MANIFEST, MALLORY), ALICE.verifier)


def test_a_signature_for_another_purpose_is_refused():
    signed = sign1(ALICE, MANIFEST.to_map(), purpose="round result")
    assert_refused("invalid-signature", verify_manifest, signed, ALICE.verifier)


def test_a_changed_byte_anywhere_is_refused():
    signed = sign_manifest(MANIFEST, ALICE)
    for position in range(0, len(signed), 97):
        altered = signed[:position] + bytes([signed[position] ^ 1]) + signed[position + 1 :]
        with pytest.raises(Refusal) as caught:
            verify_manifest(altered, ALICE.verifier)
        assert caught.value.code in ("invalid-signature", "malformed-message")


@pytest.mark.parametrize("count", [0, -1, 10**12, 1.0, 12.5, True, "12", None, b"12"])
def test_a_sample_count_that_is_not_a_whole_number_from_one_is_refused_although_signed(count):
    signed = sign1(ALICE, MANIFEST.to_map() | {"sample_count": count}, purpose=PURPOSE)
    assert_refused("sample-count-refused", verify_manifest, signed, ALICE.verifier)


@pytest.mark.parametrize(
    "member, value",
    [
        ("round_id", b"short"),
        ("round_id", "r" * 16),
        ("device_id", None),
        ("federation_id", b""),
        ("base_model_digest", b"b" * 31),
        ("ciphertext_digest", b"c" * 64),
        ("enclave_key_id", b"k" * 33),
        ("ciphertext_bytes", 0),
        ("ciphertext_bytes", 1.5),
        ("form", "gradient"),
        ("metrics", []),
        ("metrics", {"loss": float("nan")}),
        ("metrics", {"loss": float("inf")}),
        ("metrics", {"loss": True}),
        ("metrics", {"loss": "low"}),
        ("metrics", {"": 1.0}),
        ("metrics", {"n" * 65: 1.0}),
        ("metrics", {"new\nline": 1.0}),
        ("metrics", {f"m{i}": 1.0 for i in range(33)}),
        ("metrics", {7: 1.0}),
    ],
)
def test_a_member_out_of_form_is_refused(member, value):
    signed = sign1(ALICE, MANIFEST.to_map() | {member: value}, purpose=PURPOSE)
    assert_refused("malformed-message", verify_manifest, signed, ALICE.verifier)


@pytest.mark.parametrize("payload", [{}, [], None, MANIFEST.to_map() | {"more": 1}])
def test_another_structure_is_refused(payload):
    assert_refused("malformed-message", verify_manifest, sign1(ALICE, payload, purpose=PURPOSE), ALICE.verifier)


def test_an_oversized_manifest_is_refused_unread():
    assert_refused("malformed-message", verify_manifest, bytes(1 << 17), ALICE.verifier)


PARTS = (UpdatePart(b"k" * 32, 3000, b"1" * 32), UpdatePart(b"l" * 32, 2000, b"2" * 32))


def test_a_manifest_of_parts_reads_back_and_one_without_is_what_it_always_was():
    shared = dataclasses.replace(MANIFEST, parts=PARTS)
    assert verify_manifest(sign_manifest(shared, ALICE), ALICE.verifier) == shared
    assert shared.key_ids == (b"k" * 32, b"l" * 32)
    assert MANIFEST.key_ids == (b"k" * 32,)
    assert "parts" not in MANIFEST.to_map()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        None,
        [[b"k" * 32, 5000, b"1" * 32]],
        [[b"k" * 32, 3000, b"1" * 32], [b"l" * 32, 2001, b"2" * 32]],
        [[b"l" * 32, 3000, b"1" * 32], [b"k" * 32, 2000, b"2" * 32]],
        [[b"k" * 32, 3000, b"1" * 32], [b"l" * 32, 2000]],
        [[b"k" * 32, 3000, b"1" * 32], [b"l" * 32, True, b"2" * 32]],
        [[b"k" * 31, 3000, b"1" * 32], [b"l" * 32, 2000, b"2" * 32]],
        [[b"k" * 32, 0, b"1" * 32], [b"l" * 32, 5000, b"2" * 32]],
        [[b"k" * 32, 1000, b"1" * 32]] + [[b"l" * 32, 250, b"2" * 32]] * 16,
    ],
    ids=range(10),
)
def test_parts_that_are_not_those_of_the_update_are_refused(parts):
    signed = sign1(ALICE, MANIFEST.to_map() | {"parts": parts}, purpose=PURPOSE)
    assert_refused("malformed-message", verify_manifest, signed, ALICE.verifier)
