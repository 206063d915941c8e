"""HKDF-SHA3-512: RFC 5869's construction, separate for every purpose and context."""

import hmac

import pytest
from cryptography.hazmat.primitives.hashes import SHA3_512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.encoding import frame, label
from qflare_protocol.kdf import equal, expand, extract, mac


@given(st.binary(min_size=1, max_size=64), st.text("abc", max_size=5), st.binary(max_size=20), st.integers(1, 300))
def test_expand_is_hkdf_expand(key, purpose, context, length):
    info = frame(label(purpose), context)
    expected = HKDFExpand(SHA3_512(), length, info).derive(key)
    assert expand(key, purpose, context, length=length) == expected


@given(st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=3))
def test_extract_is_hkdf_extract(salt, secrets):
    expected = HKDF(SHA3_512(), 32, salt, frame(label("x"))).derive(frame(*secrets))
    assert expand(extract(salt, *secrets), "x") == expected


@pytest.mark.parametrize("length", [-1, 0, 255 * 64 + 1])
def test_a_length_that_hkdf_does_not_give_is_a_mistake(length):
    with pytest.raises(ValueError, match="HKDF"):
        expand(b"key", "x", length=length)
    assert len(expand(b"key", "x", length=255 * 64)) == 255 * 64


def test_secrets_are_framed_before_they_are_mixed():
    assert extract(b"", b"ab", b"c") != extract(b"", b"a", b"bc")


def test_a_mac_is_for_one_purpose_and_its_fields():
    assert mac(b"k", "confirm device", b"t") != mac(b"k", "confirm server", b"t")
    assert mac(b"k", "x", b"ab") != mac(b"k", "x", b"a", b"b")
    assert mac(b"k", "x", b"t") == hmac.digest(b"k", frame(label("x"), b"t"), "sha3_512")


def test_comparison():
    assert equal(b"a", b"a")
    assert not equal(b"a", b"b")
    assert not equal(b"a", b"aa")
