"""The hybrid KEMs agree with their drafts, with cryptography's own HPKE, and refuse a bad half."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol import hpke, pqc
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import hybrid

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
# draft-connolly-cfrg-xwing-kem, appendix C: seed, SHA-256 of the public key.
XWING_KEYS = [
    (
        "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26",
        "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb",
    ),
    (
        "badfd6dfaac359a5efbb7bcc4b59d538df9a04302e10c8bc1cbf1a0b3a5120ea",
        "c42ba5f8430d7d2c83739338203819f090e8303ce9c8b02107c272bfa5376916",
    ),
    (
        "ef58538b8d23f87732ea63b02b4fa0f4873360e2841928cd60dd4cee8cc0d4c9",
        "6b080d6b84f095342092fa7a22423e58bd681397ad0ef00eac92bd254db4fa95",
    ),
]
SMALL_ORDER = [
    (1).to_bytes(32, "little"),
    ((1 << 255) - 20).to_bytes(32, "little"),
    ((1 << 255) - 18).to_bytes(32, "little"),
]
XWING, P384 = pqc.kem("X-Wing"), pqc.kem("MLKEM1024-P384")
XWING_PAIR, P384_PAIR = XWING.generate(), P384.generate()


def refusal_of(call, *arguments) -> str:
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return refused.value.code


@pytest.mark.parametrize(("seed", "digest"), XWING_KEYS)
def test_xwing_derives_the_public_keys_of_the_draft(seed: str, digest: str) -> None:
    assert hashlib.sha256(hybrid.xwing_public_key(bytes.fromhex(seed))).hexdigest() == digest


def test_xwing_opens_the_ciphertexts_of_the_draft() -> None:
    path = VECTORS / "xwing" / "test-vectors.json"
    if not path.exists():
        pytest.skip(f"vectors are not at {path}")
    vectors = json.loads(path.read_text())
    for vector in vectors:
        secret = XWING.decapsulate(bytes.fromhex(vector["sk"]), bytes.fromhex(vector["ct"]))
        assert secret.hex() == vector["ss"]
    assert len(vectors) == 3


def test_the_label_of_xwing_is_that_of_the_draft() -> None:
    assert hybrid._XWING_LABEL.hex() == "5c2e2f2f5e5c"


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_an_x25519_key_of_small_order_is_refused_on_either_side(point: bytes) -> None:
    assert refusal_of(XWING.encapsulate, XWING_PAIR.public[:1184] + point) == "invalid-key"
    ciphertext = XWING.encapsulate(XWING_PAIR.public)[1]
    assert refusal_of(XWING.decapsulate, XWING_PAIR.private, ciphertext[:1088] + point) == "malformed-message"


def bad_points() -> list[bytes]:
    point = P384_PAIR.public[1568:]
    off_curve = point[:-1] + bytes([point[-1] ^ 1])
    return [off_curve, b"\x02" + point[1:], b"\x06" + point[1:], b"\x00" * 96 + b"\x01", b"\x04" + b"\xff" * 96]


@pytest.mark.parametrize("number", range(5))
def test_a_point_that_is_none_of_p384_is_refused_on_either_side(number: int) -> None:
    point = bad_points()[number]
    assert refusal_of(P384.encapsulate, P384_PAIR.public[:1568] + point) == "invalid-key"
    ciphertext = P384.encapsulate(P384_PAIR.public)[1]
    assert refusal_of(P384.decapsulate, P384_PAIR.private, ciphertext[:1568] + point) == "malformed-message"


@pytest.mark.parametrize("scalar", [b"\xff" * 48, (1).to_bytes(48, "big")])
def test_a_scalar_has_to_be_below_the_group_order(scalar: bytes) -> None:
    ciphertext = P384.encapsulate(P384_PAIR.public)[1]
    private = P384_PAIR.private[:64] + scalar
    if scalar[0] == 0xFF:
        assert refusal_of(P384.decapsulate, private, ciphertext) == "invalid-key"
    else:
        assert len(P384.decapsulate(private, ciphertext)) == 32


@pytest.mark.parametrize(("name", "curve_bytes"), [("X-Wing", 32), ("MLKEM1024-P384", 97)])
def test_either_half_of_another_ciphertext_gives_another_secret(name: str, curve_bytes: int) -> None:
    algorithm = pqc.kem(name)
    pair = algorithm.generate()
    secret, ciphertext = algorithm.encapsulate(pair.public)
    other = algorithm.encapsulate(pair.public)[1]
    assert algorithm.decapsulate(pair.private, ciphertext[:-curve_bytes] + other[-curve_bytes:]) != secret
    assert algorithm.decapsulate(pair.private, other[:-curve_bytes] + ciphertext[-curve_bytes:]) != secret
    assert algorithm.decapsulate(pair.private, ciphertext) == secret


@settings(deadline=None, max_examples=25)
@given(info=st.binary(max_size=64), plaintext=st.binary(max_size=64))
def test_the_p384_hybrid_opens_what_the_hpke_of_cryptography_seals(info: bytes, plaintext: bytes) -> None:
    message = hpke.seal(P384_PAIR.public, plaintext, info=info)
    shared = P384.decapsulate(P384_PAIR.private, message[:1665])
    key, nonce = hpke_key_schedule(shared, info)
    assert AESGCM(key).decrypt(nonce, message[1665:], b"") == plaintext


def test_the_hpke_of_cryptography_opens_what_the_p384_hybrid_encapsulates() -> None:
    shared, enc = P384.encapsulate(P384_PAIR.public)
    key, nonce = hpke_key_schedule(shared, b"info")
    sealed = enc + AESGCM(key).encrypt(nonce, b"content key", b"")
    assert hpke.open_sealed(P384_PAIR.private, sealed, info=b"info") == b"content key"


def hpke_key_schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return key and nonce by the steps of docs/protocol.md, section 2."""
    suite = b"HPKE" + bytes.fromhex("005100110002")
    steps = prefixed(b"") + prefixed(shared) + b"HPKE-v1" + suite + prefixed(b"secret") + bytes.fromhex("006c00")
    secret = hashlib.shake_256(steps + prefixed(b"") + prefixed(info)).digest(108)
    return secret[:32], secret[32:44]


def prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
