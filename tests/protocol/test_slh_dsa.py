"""The verifier of SLH-DSA by hashlib agrees with every engine and with nothing that is not FIPS 205."""

import pytest

from qflare_protocol.pqc import self_test, slh_dsa
from tests.protocol.engines import signature_by, signature_engines

NAME = "SLH-DSA-SHA2-128f"
ENGINES = [engine for engine, _ in signature_engines([NAME])]
PRIVATE = self_test._SLH_DSA_KEY
PUBLIC = slh_dsa.public_half(PRIVATE)
if not ENGINES:
    pytest.skip("no engine here has SLH-DSA", allow_module_level=True)
SIGNATURE = signature_by(ENGINES[0], NAME).sign(PRIVATE, b"message")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("message", [b"", b"message", bytes(1000)])
def test_the_verifier_accepts_what_an_engine_signs(engine: str, message: bytes) -> None:
    signature = signature_by(engine, NAME).sign(PRIVATE, message)
    assert slh_dsa.signature_holds(PUBLIC, message, signature)
    assert not slh_dsa.signature_holds(PUBLIC, message + b"x", signature)


@pytest.mark.parametrize("engine", ENGINES)
def test_signing_is_hedged(engine: str) -> None:
    algorithm = signature_by(engine, NAME)
    assert algorithm.sign(PRIVATE, b"message") != algorithm.sign(PRIVATE, b"message")


@pytest.mark.parametrize("position", [0, 16, 3696, 3711, 3712, 17087])
def test_a_changed_byte_anywhere_breaks_the_signature(position: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[position] ^= 1
    assert not slh_dsa.signature_holds(PUBLIC, b"message", bytes(changed))


def test_another_key_does_not_verify() -> None:
    assert not slh_dsa.signature_holds(PUBLIC[:16] + bytes(16), b"message", SIGNATURE)
    assert not slh_dsa.signature_holds(bytes([PUBLIC[0] ^ 1]) + PUBLIC[1:], b"message", SIGNATURE)


def test_the_empty_context_stands_before_the_message() -> None:
    # The internal function of FIPS 205, and SPHINCS+ before it, sign the bare message: 0x00 0x00 tells them apart.
    bare = slh_dsa._message_indices(SIGNATURE[:16], PUBLIC[:16], PUBLIC[16:], b"message")
    pure = slh_dsa._message_indices(SIGNATURE[:16], PUBLIC[:16], PUBLIC[16:], b"\x00\x00message")
    assert bare != pure


def test_digits_take_the_highest_bits_first() -> None:
    assert slh_dsa._digits(bytes([0b10110100, 0b01111111]), 6, 2) == [0b101101, 0b000111]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_of_nist_signs_for_its_public_half(engine: str) -> None:
    algorithm = signature_by(engine, NAME)
    assert algorithm.public_key(PRIVATE) == PUBLIC
    algorithm.verify(PUBLIC, b"message", SIGNATURE)
