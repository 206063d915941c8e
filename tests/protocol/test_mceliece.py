"""What the specification of Classic McEliece gives, every engine gives; and no unused bit is believed."""

from functools import cache

import pytest

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import mceliece
from qflare_protocol.pqc.interface import KeyPair
from tests.protocol.engines import kem_by, kem_engines

ENGINES = [engine for engine, _ in kem_engines([mceliece.NAME])]
POSITIONS = sorted({(number * 7919) % 6960 for number in range(mceliece.ERROR_WEIGHT)})
if not ENGINES:
    pytest.skip("no engine here has Classic McEliece", allow_module_level=True)


@cache
def pair() -> KeyPair:
    return kem_by(ENGINES[0], mceliece.NAME).generate()


def with_last_bits(data: bytes, index: int, bits: int) -> bytes:
    return data[:index] + bytes([data[index] | bits]) + data[index + 1 :]


def test_the_sizes_of_a_key_pair_are_those_of_the_specification() -> None:
    assert (len(pair().private), len(pair().public)) == (13948, 1047319)
    mceliece.check_public_key_padding(pair().public)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_opens_what_the_specification_encapsulates(engine: str) -> None:
    assert len(POSITIONS) == mceliece.ERROR_WEIGHT
    secret, ciphertext = mceliece.encapsulate_error(pair().public, POSITIONS)
    assert kem_by(engine, mceliece.NAME).decapsulate(pair().private, ciphertext) == secret


@pytest.mark.parametrize("engine", ENGINES)
def test_a_ciphertext_that_does_not_decode_is_rejected_implicitly(engine: str) -> None:
    _, ciphertext = mceliece.encapsulate_error(pair().public, POSITIONS)
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    expected = mceliece.rejected_secret(pair().private, changed)
    assert kem_by(engine, mceliece.NAME).decapsulate(pair().private, changed) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ciphertext_of_an_engine_has_no_unused_bit_set(engine: str) -> None:
    secret, ciphertext = kem_by(engine, mceliece.NAME).encapsulate(pair().public)
    mceliece.check_ciphertext_padding(ciphertext)
    assert len(secret) == 32


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("row", [0, 1546])
def test_a_public_key_with_an_unused_bit_set_is_refused(engine: str, row: int) -> None:
    public = with_last_bits(pair().public, row * 677 + 676, 0x20)
    with pytest.raises(Refusal) as refused:
        kem_by(engine, mceliece.NAME).encapsulate(public)
    assert refused.value.code == "invalid-key"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_ciphertext_with_an_unused_bit_set_is_refused(engine: str) -> None:
    _, ciphertext = mceliece.encapsulate_error(pair().public, POSITIONS)
    with pytest.raises(Refusal) as refused:
        kem_by(engine, mceliece.NAME).decapsulate(pair().private, with_last_bits(ciphertext, 193, 0x08))
    assert refused.value.code == "malformed-message"
