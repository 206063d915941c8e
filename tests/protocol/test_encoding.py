"""Deterministic encodings: one value, one encoding, and every other one refused."""

import math
import time

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.encoding import MAX_ITEMS, MAX_NESTING, decode, digest, encode, frame, label
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


def header(major, argument):
    """The header of RFC 8949 section 3, in its shortest form."""
    if argument < 24:
        return bytes([major << 5 | argument])
    size = next(size for size in (1, 2, 4, 8) if argument < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + argument.to_bytes(size, "big")


def shared_references(levels, width):
    """An array whose items are shared, each holding references to the one before: `width ** levels` leaves."""
    tag, reference = header(6, 28), header(6, 29)
    items = [tag + b"\x80"]
    items += [tag + header(4, width) + width * (reference + header(0, level)) for level in range(levels)]
    return header(4, len(items)) + b"".join(items)


def refused_fast(data, **options):
    started = time.process_time()
    refused(data, **options)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(("levels", "width"), [(8, 10), (14, 10), (14, 23), (1000, 100)])
def test_a_bomb_of_shared_references_is_refused_before_it_unfolds(levels, width):
    refused_fast(shared_references(levels, width))


def test_a_bomb_inside_an_honest_map_is_refused_too():
    refused_fast(b"\xa1\x61a" + shared_references(14, 10))


@pytest.mark.parametrize("number", [*range(65), 100, 256, 258, 260, 1004, 43000, 55799, 2**32, 2**64 - 1])
@pytest.mark.parametrize("content", ["01", "80", "8101", "4101", "6131", "820101"])
def test_no_tag_is_ever_read(number, content):
    tagged = header(6, number) + bytes.fromhex(content)
    for data in (tagged, b"\x82\x01" + tagged, b"\xa1\x00" + tagged, b"\xa1" + tagged + b"\x01"):
        refused(data)


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("length", [2**16, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_length_beyond_the_data_costs_nothing(major, length):
    refused_fast(header(major, length) + bytes(100))


@pytest.mark.parametrize(
    "key", [lambda n: header(0, n * (2**61 - 1)), lambda n: b"\x81" + header(0, n), lambda n: header(0, n + 24)]
)
def test_keys_that_could_be_made_to_collide_are_not_hashed(key):
    refused_fast(header(5, 8) + b"".join(key(n + 1) + b"\x01" for n in range(8)))


def test_the_number_of_items_is_bounded():
    length = MAX_ITEMS - 1  # and the array itself
    assert len(decode(header(4, length) + bytes(length), what="message", maximum_bytes=1 << 26)) == length
    refused(header(4, length + 1) + bytes(length + 1), maximum_bytes=1 << 26)
    refused(header(4, 2**26 - 5) + b"\x80" * (2**26 - 5), maximum_bytes=1 << 26)


@given(values, st.integers(0, MAX_NESTING - 1))
def test_whatever_we_encode_we_decode(value, wrappings):
    for _ in range(wrappings):
        value = {"a": value} if wrappings % 2 else [value]
    try:
        assert decode(encode(value), what="message") == value
    except Refusal as refusal:
        assert "nested too deeply" in refusal.detail
        assert depth(value) > MAX_NESTING


def depth(value):
    """The levels of a value, a leaf being one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.0, 1e300, 2**64 - 1, -(2**64), "\N{SNOWMAN}" * 30_000])
def test_the_extremes_survive_the_round_trip(value):
    assert decode(encode([value]), what="message") == [value]
    assert math.isnan(decode(encode(math.nan), what="message"))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("c101", "tag"), ("9fff", "indefinite"), ("bfff", "indefinite"), ("f7", "type"), ("a12001", "map key"),
        ("ff", "not valid CBOR"), ("1f", "not valid CBOR"), ("5c", "not valid CBOR"), ("a201010101", "not valid CBOR"),
        ("0000", "other bytes"), ("1800", "deterministic"), ("a2616100" + "0000", "deterministic"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_fault(data, fault):
    with pytest.raises(Refusal, match=fault):
        decode(bytes.fromhex(data), what="message")


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
