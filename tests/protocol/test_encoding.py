"""Deterministic encodings: one value, one encoding, and every other one refused."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.encoding import decode, digest, encode, frame, label
from qflare_protocol.errors import Refusal

keys = st.text(max_size=30) | st.integers(0, 23)
leaves = (
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False)
    | st.binary(max_size=40) | st.text(max_size=40)
)  # fmt: skip
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5))


def refused(data, **options):
    with pytest.raises(Refusal) as caught:
        decode(data, what="message", **options)
    assert caught.value.code == "malformed-message"
    assert caught.value.detail.startswith("The message ")


@given(values)
def test_a_value_survives_the_round_trip(value):
    assert decode(encode(value), what="message") == value


@given(values)
def test_another_encoding_of_the_same_value_is_refused(value):
    plain = cbor2.dumps(value)
    if plain != encode(value):
        refused(plain)
    refused(encode(value) + b"\0")
    refused(b"\xd9\xd9\xf7" + encode(value))


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_deterministic(data):
    try:
        value = decode(data, what="message")
    except Refusal as refusal:
        assert refusal.code == "malformed-message"
    else:
        assert encode(value) == data


@given(st.integers(0, 50), st.binary(min_size=1, max_size=20))
def test_a_tag_before_anything_is_refused(tag, data):
    refused(bytes([0xD8, tag]) + data if tag > 23 else bytes([0xC0 | tag]) + data)


@pytest.mark.parametrize(
    "data",
    [
        "1800", "190001", "1a00000001", "1b0000000000000001",  # integers longer than needed
        "fa3fc00000", "fb3ff8000000000000", "f97e01", "fb7ff8000000000001",  # floats likewise, and other NaNs
        "5800", "7800", "9800", "b800",  # lengths likewise
        "9f01ff", "bf0101ff", "5f4101ff", "7f6161ff",  # indefinite lengths
        "a2020101 01", "a2616201616101", "a201010102",  # keys out of order or twice
        "c2420100", "c24101", "c249010000000000000000", "c349010000000000000000",  # big numbers
        "f7", "e0", "f8ff", "c001", "c11a5f5e1000", "d81c80", "d81c81d81d00", "d9010280",  # foreign types
        "a1f501", "a1f601", "a1410101", "a1f93c0001", "a1182001", "a12001", "a1818001",  # keys of other types
        "62c328", "61ff",  # text that is not UTF-8
        "", "18", "41", "81", "a1", "a101", "ff", "1c",  # cut off or not CBOR
    ],
)  # fmt: skip
def test_what_is_not_the_one_encoding_is_refused(data):
    refused(bytes.fromhex(data))


def test_nesting_is_bounded():
    assert decode(b"\x81" * 15 + b"\x01", what="message")
    refused(b"\x81" * 16 + b"\x01")
    refused(b"\xa1\x00" * 16 + b"\x01")
    refused(b"\x81" * 100_000 + b"\x01")


def test_length_is_bounded():
    assert decode(encode(bytes(97)), what="message", maximum_bytes=99) == bytes(97)
    refused(encode(bytes(98)), maximum_bytes=99)


@given(st.lists(st.binary(max_size=20), max_size=5), st.lists(st.binary(max_size=20), max_size=5))
def test_different_fields_never_share_a_frame(first, second):
    assert (frame(*first) == frame(*second)) == (first == second)
    assert (digest("test", *first) == digest("test", *second)) == (first == second)


def test_a_digest_is_for_one_purpose():
    assert label("test") == b"QFLARE/1 test"
    assert len(digest("test")) == 64
    assert digest("test") != digest("tests")
