"""An audit entry has one encoding, and its hash binds all of it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.audit_entry import (
    GENESIS_HASH,
    MAX_PAYLOAD_BYTES,
    AuditEntry,
    Disclosure,
    commitment,
    encode_payload,
    entry_hash,
    to_microseconds,
)
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal

SALT, COMMITMENT = bytes(range(32)), bytes(range(64))
ENTRY = AuditEntry(3, 1_772_366_400_123_456, "round.opened", COMMITMENT, GENESIS_HASH)
MEMBERS: list[Any] = [3, 1_772_366_400_123_456, "round.opened", COMMITMENT, GENESIS_HASH]
DISCLOSURE = Disclosure(SALT, "device:alice", {"round": 1})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.text(max_size=40), st.integers(0, 2**63))
def test_an_entry_is_read_back_as_it_was(kind: str, index: int) -> None:
    entry = AuditEntry(index, 5, kind, COMMITMENT, GENESIS_HASH)
    assert AuditEntry.from_bytes(entry.to_bytes()) == entry


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=5), st.text(max_size=40))
def test_a_disclosure_is_read_back_as_it_was(payload: dict[str, Any], actor: str) -> None:
    disclosure = Disclosure(SALT, actor, payload)
    assert Disclosure.from_bytes(disclosure.to_bytes()) == disclosure
    assert disclosure.to_bytes() == encode([SALT, actor, payload])


def test_the_bytes_are_the_deterministic_array_of_the_members() -> None:
    assert ENTRY.to_bytes() == encode(MEMBERS)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        AuditEntry.from_bytes(data)
    assert refused.value.code == "malformed-message"


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, "3"), (0, True), (1, 1.5), (2, b"kind"), (3, None), (3, bytes(63)), (4, [1]), (4, bytes(63)), (4, "text")],
)
def test_a_member_of_another_type_or_size_is_refused(position: int, value: Any) -> None:
    members = [*MEMBERS]
    members[position] = value
    with pytest.raises(Refusal):
        AuditEntry.from_bytes(encode(members))


@pytest.mark.parametrize("members", [MEMBERS[:4], [*MEMBERS, 1], {}, 7])
def test_an_array_of_another_length_is_refused(members: Any) -> None:
    with pytest.raises(Refusal):
        AuditEntry.from_bytes(encode(members))


@pytest.mark.parametrize("position", range(5))
def test_the_hash_depends_on_every_member(position: int) -> None:
    changed = [*MEMBERS]
    changed[position] = [4, 5, "other", bytes(64), b"\x01" * 64][position]
    assert entry_hash(encode(changed)) != entry_hash(ENTRY.to_bytes())


@pytest.mark.parametrize(
    "members",
    [
        [SALT, "alice"],
        [SALT, "alice", {}, 1],
        [SALT[:31], "alice", {}],
        ["salt", "alice", {}],
        [SALT, 1, {}],
        [SALT, "a", []],
    ],
)
def test_a_disclosure_of_another_form_is_refused(members: list[Any]) -> None:
    with pytest.raises(Refusal) as refused:
        Disclosure.from_bytes(encode(members))
    assert refused.value.code == "malformed-message"


@pytest.mark.parametrize(
    "other", [replace(DISCLOSURE, salt=bytes(32)), replace(DISCLOSURE, actor="a"), replace(DISCLOSURE, payload={})]
)
def test_the_commitment_depends_on_every_member(other: Disclosure) -> None:
    assert commitment(other.to_bytes()) != commitment(DISCLOSURE.to_bytes())


def test_an_entry_longer_than_it_may_be_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="entry 0 has"):
        AuditEntry(0, 0, "k" * 1000, COMMITMENT, GENESIS_HASH).to_bytes()


def test_a_disclosure_longer_than_a_bundle_can_carry_is_refused() -> None:
    with pytest.raises(Refusal, match="at most 65535"):
        Disclosure(SALT, "a" * 40_000, {"text": "x" * 30_000}).to_bytes()


def test_a_payload_has_a_bound() -> None:
    assert encode_payload({"text": "x" * (MAX_PAYLOAD_BYTES - 20)})
    with pytest.raises(Refusal):
        encode_payload({"text": "x" * MAX_PAYLOAD_BYTES})


def test_times_keep_their_microseconds() -> None:
    assert to_microseconds(datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)) == 1_772_366_400_123_456
    assert to_microseconds(datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == -1
