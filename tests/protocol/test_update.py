import dataclasses
import os

import pytest

from qflare_protocol import hpke
from qflare_protocol.chunked import CHUNK_BYTES
from qflare_protocol.errors import Refusal
from qflare_protocol.update import HEADER_BYTES, UpdateContext, open_update, seal_update, sealed_update_size

ENCLAVE, OTHER = hpke.generate(), hpke.generate()
CONTEXT = UpdateContext(b"f" * 16, b"r" * 16, b"a" * 16, b"k" * 32, b"b" * 32)


def seal(plaintext, context=CONTEXT):
    return b"".join(seal_update(ENCLAVE.public, context, plaintext))


def assert_does_not_open(blob, context=CONTEXT, private=ENCLAVE.private):
    with pytest.raises(Refusal) as caught:
        list(open_update(private, context, [blob]))
    assert caught.value.code == "decryption-failed"


@pytest.mark.parametrize("size", [0, 100, CHUNK_BYTES + 5])
def test_a_sealed_update_opens_for_the_enclave_and_has_the_announced_size(size):
    plaintext = os.urandom(size)
    blob = seal(plaintext)
    assert len(blob) == sealed_update_size(size)
    pieces = (blob[i : i + 1000] for i in range(0, len(blob), 1000))
    assert b"".join(open_update(ENCLAVE.private, CONTEXT, pieces)) == plaintext


def test_the_plaintext_may_come_in_pieces():
    blob = b"".join(seal_update(ENCLAVE.public, CONTEXT, iter([b"one ", b"two"])))
    assert b"".join(open_update(ENCLAVE.private, CONTEXT, [blob])) == b"one two"


def test_the_plaintext_does_not_show_in_the_blob():
    assert b"known plaintext" not in seal(b"known plaintext" * 50)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(UpdateContext)])
def test_an_update_opens_in_its_own_context_only(field):
    elsewhere = dataclasses.replace(CONTEXT, **{field: b"x" * len(getattr(CONTEXT, field))})
    assert_does_not_open(seal(b"delta"), context=elsewhere)


def test_another_enclave_key_does_not_open():
    assert_does_not_open(seal(b"delta"), private=OTHER.private)


@pytest.mark.parametrize("position", [0, 4, 12, 500, HEADER_BYTES, HEADER_BYTES + 30, -1])
def test_a_changed_byte_anywhere_does_not_open(position):
    blob = bytearray(seal(b"delta"))
    blob[position] ^= 1
    assert_does_not_open(bytes(blob))


@pytest.mark.parametrize("length", [0, 3, 100, HEADER_BYTES, HEADER_BYTES + 43, -1])
def test_a_cut_off_update_does_not_open(length):
    assert_does_not_open(seal(b"delta")[:length])


def test_the_sealed_key_of_one_update_does_not_serve_another():
    first, second = seal(b"first"), seal(b"second")
    assert_does_not_open(first[:HEADER_BYTES] + second[HEADER_BYTES:])


def test_a_malformed_enclave_key_is_refused():
    with pytest.raises(Refusal) as caught:
        list(seal_update(bytes(1665), CONTEXT, b"delta"))
    assert caught.value.code == "invalid-key"
