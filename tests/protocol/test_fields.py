"""Checks of members: CBOR and JSON values that Python blurs are told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import fields
from qflare_protocol.errors import Refusal

anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.none())


def refused(check, *arguments, code="malformed-message", **options):
    with pytest.raises(Refusal) as caught:
        check(*arguments, **options)
    assert caught.value.code == code


@given(anything)
def test_a_whole_number_is_an_integer_within_its_bounds(value):
    if type(value) is int and -5 <= value <= 5:
        assert fields.whole_number(value, -5, 5, what="count") == value
    else:
        refused(fields.whole_number, value, -5, 5, what="count")


@given(anything | st.just(10**400) | st.just(-(10**400)))
def test_a_finite_number_is_a_number_within_its_bounds(value):
    if type(value) in (int, float) and -5 <= value <= 5:
        number = fields.finite_number(value, -5, 5, what="score")
        assert (type(number), number) == (float, value)
    else:
        refused(fields.finite_number, value, -5, 5, what="score")


@pytest.mark.parametrize("value", ["", "a" * 11, "a\n", "a\0", "\ud800", "\u202e", b"a", 1, None])
def test_text_is_printable_and_bounded(value):
    refused(fields.short_text, value, 10, what="name")
    refused(fields.text_field, {"name": value}, "name", 10)
    assert fields.short_text("Zoë 1", 10, what="name") == "Zoë 1"


@pytest.mark.parametrize("value", [None, [], "a", {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, 2: 3}])
def test_a_map_has_exactly_its_members(value):
    refused(fields.require_map, value, frozenset({"a", "b"}), "message")
    assert fields.require_map({"b": 1, "a": 2}, frozenset({"a", "b"}), "message") == {"a": 2, "b": 1}


def test_a_map_without_members_says_so():
    with pytest.raises(Refusal, match="members: none"):
        fields.require_map({"a": 1}, frozenset(), "message")


@pytest.mark.parametrize("value", [b"", bytes(3), bytes(5), "four", bytearray(4), None, 4])
def test_bytes_have_their_length(value):
    refused(fields.bytes_field, {"key": value}, "key", 4)
    assert fields.bytes_field({"key": bytes(4)}, "key", 4) == bytes(4)


def test_bytes_have_their_maximum():
    assert fields.bytes_field({"key": b""}, "key", maximum=4) == b""
    refused(fields.bytes_field, {"key": bytes(5)}, "key", maximum=4)
    refused(fields.bytes_field, {"key": "text"}, "key", maximum=4)


@pytest.mark.parametrize("value", [-1, 2**63, True, 1.0, "1", None])
def test_unsigned_numbers_fit_the_database(value):
    refused(fields.unsigned_field, {"size": value}, "size")


def test_the_caller_chooses_the_code():
    with pytest.raises(Refusal) as caught:
        fields.whole_number(0, 1, 2, what="sample count", code="sample-count-refused")
    assert caught.value.code == "sample-count-refused"
