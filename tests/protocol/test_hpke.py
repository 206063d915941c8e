import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol import hpke
from qflare_protocol.errors import Refusal

ALICE = hpke.generate()
MALLORY = hpke.generate()
INFO = b"round 1"


def refused(code, action, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    return caught.value


def test_keys_have_the_documented_sizes_and_the_public_key_follows_from_the_private_one():
    assert len(ALICE.private) == 112
    assert len(ALICE.public) == 1665
    assert hpke.public_key(ALICE.private) == ALICE.public
    assert hpke.check_public_key(ALICE.public) == ALICE.public


def test_the_private_key_does_not_show_in_repr():
    assert ALICE.private.hex()[:16] not in repr(ALICE)
    assert repr(ALICE.private) not in repr(ALICE)


@given(plaintext=st.binary(max_size=200), info=st.binary(max_size=64))
@settings(max_examples=25, deadline=None)
def test_what_is_sealed_opens_under_the_same_key_and_info(plaintext, info):
    sealed = hpke.seal(ALICE.public, plaintext, info=info)
    assert len(sealed) == len(plaintext) + hpke.OVERHEAD_BYTES
    assert hpke.open_sealed(ALICE.private, sealed, info=info) == plaintext


def test_another_key_or_another_info_does_not_open():
    sealed = hpke.seal(ALICE.public, b"secret", info=INFO)
    refused("decryption-failed", hpke.open_sealed, MALLORY.private, sealed, info=INFO)
    refused("decryption-failed", hpke.open_sealed, ALICE.private, sealed, info=b"round 2")


@pytest.mark.parametrize("position", [0, 1567, 1568, 1569, 1664, 1665, -1])
def test_a_changed_byte_anywhere_does_not_open(position):
    sealed = bytearray(hpke.seal(ALICE.public, b"secret", info=INFO))
    sealed[position] ^= 1
    refused("decryption-failed", hpke.open_sealed, ALICE.private, bytes(sealed), info=INFO)


@pytest.mark.parametrize("length", [0, 1, 1665, hpke.OVERHEAD_BYTES - 1, hpke.OVERHEAD_BYTES])
def test_a_cut_off_message_does_not_open(length):
    sealed = hpke.seal(ALICE.public, b"secret", info=INFO)
    refused("decryption-failed", hpke.open_sealed, ALICE.private, sealed[:length], info=INFO)


@pytest.mark.parametrize(
    "public",
    [
        b"",
        ALICE.public[:-1],
        ALICE.public + b"\x00",
        bytes(1665),
        bytes(1568) + ALICE.public[1568:],
        b"\xff" * 1568 + ALICE.public[1568:],
        ALICE.public[:1568] + b"\x04" + bytes(96),
        ALICE.public[:1568] + b"\x00" * 97,
        ALICE.public[:-1] + bytes([ALICE.public[-1] ^ 1]),
        ALICE.public.hex(),
        None,
    ],
)
def test_a_malformed_public_key_is_refused_before_anything_is_sealed(public):
    refused("invalid-key", hpke.seal, public, b"secret", info=INFO)
    refused("invalid-key", hpke.check_public_key, public)


@pytest.mark.parametrize(
    "private",
    [
        b"",
        ALICE.private[:-1],
        bytes(112),
        bytes(64) + ALICE.private[64:],
        ALICE.private[:64] + bytes(48),
        b"\xff" * 112,
    ],
)
def test_a_malformed_private_key_is_refused(private):
    refused("invalid-key", hpke.open_sealed, private, bytes(hpke.OVERHEAD_BYTES), info=INFO)
    refused("invalid-key", hpke.public_key, private)


def test_two_sealings_of_the_same_plaintext_differ():
    assert hpke.seal(ALICE.public, b"x", info=INFO) != hpke.seal(ALICE.public, b"x", info=INFO)
