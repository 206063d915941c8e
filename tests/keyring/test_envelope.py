"""A wrapped secret opens in its own row and column under its own KEK, and nowhere else."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyring.envelope import OVERHEAD_BYTES, EnvelopeError, unwrap, wrap

ROW = {"table": "sessions_session", "primary_key": 7, "column": "chain_key"}


@given(st.binary(max_size=300))
def test_what_was_wrapped_is_unwrapped(secret: bytes) -> None:
    wrapped = wrap(secret, **ROW)
    assert len(wrapped) == len(secret) + OVERHEAD_BYTES
    assert unwrap(wrapped, **ROW) == secret


def test_the_database_may_hand_back_a_memoryview() -> None:
    assert unwrap(memoryview(wrap(b"secret", **ROW)), **ROW) == b"secret"


def test_the_secret_does_not_show_and_no_two_wrappings_agree() -> None:
    first, second = wrap(b"a secret of some length", **ROW), wrap(b"a secret of some length", **ROW)
    assert b"secret" not in first
    assert first[17:] != second[17:]


@pytest.mark.parametrize("member", [{"table": "other"}, {"primary_key": 8}, {"column": "other"}])
def test_a_value_moved_to_another_place_does_not_open(member: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="belongs to another row"):
        unwrap(wrap(b"secret", **ROW), **{**ROW, **member})


def test_row_names_cannot_be_shifted_into_one_another() -> None:
    wrapped = wrap(b"secret", table="ab", primary_key="c", column="d")
    with pytest.raises(EnvelopeError):
        unwrap(wrapped, table="a", primary_key="bc", column="d")


def test_uuid_and_its_text_name_the_same_row() -> None:
    key = uuid.uuid4()
    assert unwrap(wrap(b"secret", **{**ROW, "primary_key": key}), **{**ROW, "primary_key": str(key)}) == b"secret"


@pytest.mark.parametrize("position", [0, 1, 16, 17, 48, 49, -1])
def test_a_changed_byte_anywhere_is_refused(position: int) -> None:
    changed = bytearray(wrap(b"secret", **ROW))
    changed[position] ^= 1
    with pytest.raises(EnvelopeError):
        unwrap(bytes(changed), **ROW)


@given(st.binary(max_size=120))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        unwrap(data, **ROW)


def test_another_kek_is_named_in_the_refusal(tmp_path: Path, settings: Any) -> None:
    wrapped = wrap(b"secret", **ROW)
    settings.QFLARE_KEK_FILE = tmp_path / "other" / "kek"
    with pytest.raises(EnvelopeError, match=f"another KEK \\({wrapped[1:17].hex()}\\)"):
        unwrap(wrapped, **ROW)
