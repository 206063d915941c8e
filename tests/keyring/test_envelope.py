"""A wrapped secret opens in its own row and column under its own data key, and nowhere else."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from keyring.envelope import OVERHEAD_BYTES, EnvelopeError, unwrap, wrap
from keyring.kek import KekError
from keyring.models import DataKey
from keyring.wrapped_value import HEADER_BYTES, VERSION, WrappedValue, read_wrapped_value

pytestmark = pytest.mark.django_db

database_examples = examples(deadline=None, max_examples=40)

ROW = {"table": "device_sessions_session", "primary_key": 7, "column": "wrapped_secret"}
OTHER_COLUMN = {"table": "enrollment_enrolmentattempt", "primary_key": 7, "column": "wrapped_state"}


@database_examples
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


@database_examples
@given(primary_key=st.one_of(st.integers(), st.uuids(), st.text(max_size=20)))
def test_a_value_opens_under_its_own_primary_key_only(primary_key: Any) -> None:
    wrapped = wrap(b"secret", **{**ROW, "primary_key": primary_key})
    assert unwrap(wrapped, **{**ROW, "primary_key": str(primary_key)}) == b"secret"
    with pytest.raises(EnvelopeError):
        unwrap(wrapped, **{**ROW, "primary_key": f"{primary_key}0"})


def test_columns_of_one_scope_do_not_open_each_other() -> None:
    wrapped = wrap(b"secret", **ROW)
    assert wrapped[1:17] == wrap(b"secret", **OTHER_COLUMN)[1:17]
    with pytest.raises(EnvelopeError, match="belongs to another row"):
        unwrap(wrapped, **OTHER_COLUMN)


def test_uuid_and_its_text_name_the_same_row() -> None:
    key = uuid.uuid4()
    assert unwrap(wrap(b"secret", **{**ROW, "primary_key": key}), **{**ROW, "primary_key": str(key)}) == b"secret"


@database_examples
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused(data: st.DataObject) -> None:
    changed = bytearray(wrap(b"secret", **ROW))
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(EnvelopeError):
        unwrap(bytes(changed), **ROW)


@database_examples
@given(length=st.integers(0, OVERHEAD_BYTES + 5), more=st.binary(min_size=1, max_size=5))
def test_a_shortened_or_lengthened_value_is_refused(length: int, more: bytes) -> None:
    wrapped = wrap(b"secret", **ROW)
    for changed in (wrapped[:length], wrapped + more, more + wrapped):
        with pytest.raises(EnvelopeError):
            unwrap(changed, **ROW)


@database_examples
@given(st.binary(max_size=120))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        unwrap(data, **ROW)
    with pytest.raises(EnvelopeError):
        unwrap(VERSION + data, **ROW)


@given(st.uuids(), st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=60))
def test_a_wrapped_value_is_read_as_it_is_written(key: uuid.UUID, salt: bytes, ciphertext: bytes) -> None:
    value = WrappedValue(key, salt, ciphertext)
    assert read_wrapped_value(value.to_bytes()) == value
    assert value.to_bytes()[HEADER_BYTES:] == ciphertext


def test_a_value_of_the_first_version_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="not a wrapped value of version 2"):
        unwrap(b"\x01" + wrap(b"secret", **ROW)[1:], **ROW)


def test_an_unknown_data_key_is_named_in_the_refusal() -> None:
    wrapped, stranger = wrap(b"secret", **ROW), uuid.uuid4()
    with pytest.raises(EnvelopeError, match=f"unknown data key \\({stranger}\\)"):
        unwrap(wrapped[:1] + stranger.bytes + wrapped[17:], **ROW)


def test_a_data_key_of_another_scope_opens_nothing_here() -> None:
    wrapped = wrap(b"secret", **ROW)
    other = wrap(b"x", table="keyring_serverkey", primary_key=1, column="wrapped_private")[1:17]
    with pytest.raises(EnvelopeError, match="belongs to another row"):
        unwrap(wrapped[:1] + other + wrapped[17:], **ROW)


def test_a_column_that_is_not_registered_cannot_be_wrapped() -> None:
    with pytest.raises(LookupError, match=r"device_sessions_session\.other is not registered"):
        wrap(b"secret", **{**ROW, "column": "other"})
    assert not DataKey.objects.exists()


def test_no_refusal_shows_the_secret() -> None:
    wrapped = wrap(b"correct horse battery", **ROW)
    for changed in (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), wrapped[:20], b"\x01" + wrapped[1:]):
        with pytest.raises(EnvelopeError) as refusal:
            unwrap(changed, **ROW)
        assert "horse" not in f"{refusal.value!r} {refusal.value.__cause__!r}"


def test_without_its_kek_nothing_is_wrapped_anew(settings: Any, tmp_path: Any) -> None:
    wrap(b"secret", **ROW)
    settings.QFLARE_KEK_FILE = tmp_path / "elsewhere" / "kek"
    with pytest.raises(KekError, match="The KEK file is gone although data keys stand under it"):
        wrap(b"secret", table="keyring_serverkey", primary_key=1, column="wrapped_private")
    assert not settings.QFLARE_KEK_FILE.exists()
