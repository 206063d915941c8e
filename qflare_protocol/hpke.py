"""HPKE (RFC 9180, with the hybrid KEM of draft-ietf-hpke-pq) to the enclave's round key.

Suite: KEM MLKEM1024-P384, KDF SHAKE256, AEAD AES-256-GCM. An attacker has to break both ML-KEM-1024
and P-384; each message is a single shot with its own encapsulation.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM1024P384PrivateKey,
    MLKEM1024P384PublicKey,
    Suite,
)

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import KeyPair

SEED_BYTES = 64
SCALAR_BYTES = 48
PRIVATE_KEY_BYTES = SEED_BYTES + SCALAR_BYTES
MLKEM_PUBLIC_BYTES = 1568
POINT_BYTES = 97
PUBLIC_KEY_BYTES = MLKEM_PUBLIC_BYTES + POINT_BYTES
OVERHEAD_BYTES = 1568 + POINT_BYTES + 16

_CURVE = ec.SECP384R1()
_SUITE = Suite(KEM.MLKEM1024_P384, KDF.SHAKE256, AEAD.AES_256_GCM)


def generate() -> KeyPair:
    """Make a key pair: private = ML-KEM seed (64 bytes) || P-384 scalar (48, big-endian);
    public = ML-KEM encapsulation key (1568 bytes) || P-384 uncompressed point (97).
    """
    seed = mlkem.MLKEM1024PrivateKey.generate().private_bytes_raw()
    scalar = ec.generate_private_key(_CURVE).private_numbers().private_value
    private = seed + scalar.to_bytes(SCALAR_BYTES, "big")
    return KeyPair(private=private, public=public_key(private))


def public_key(private: bytes) -> bytes:
    """Derive the 1665-byte public key. Raises `Refusal("invalid-key")`."""
    kem_key, curve_key = _private_parts(private)
    point = curve_key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return kem_key.public_key().public_bytes_raw() + point


def check_public_key(public: object) -> bytes:
    """Return the key when its length and form are right. Raises `Refusal("invalid-key")`."""
    _public_parts(public)
    assert isinstance(public, bytes)  # noqa: S101 - narrows the type that the line above has checked
    return public


def seal(public: bytes, plaintext: bytes, *, info: bytes) -> bytes:
    """Seal a short plaintext; the result is `OVERHEAD_BYTES` (1681) longer than it.

    `info` is authenticated and must be the same at opening. Raises `Refusal("invalid-key")`.
    """
    return _SUITE.encrypt(plaintext, MLKEM1024P384PublicKey(*_public_parts(public)), info)


def open_sealed(private: bytes, sealed: bytes, *, info: bytes) -> bytes:
    """Return the plaintext sealed to this key under the same `info`.

    Raises `Refusal("invalid-key")` for a private key of another form and
    `Refusal("decryption-failed")` for everything else that is wrong.
    """
    key = MLKEM1024P384PrivateKey(*_private_parts(private))
    if len(sealed) < OVERHEAD_BYTES:
        raise Refusal("decryption-failed", f"An HPKE message has at least {OVERHEAD_BYTES} bytes.")
    try:
        return _SUITE.decrypt(sealed, key, info)
    except (InvalidTag, ValueError) as error:
        raise Refusal("decryption-failed", "The HPKE message does not open under this key and context.") from error


def _private_parts(private: bytes) -> tuple[mlkem.MLKEM1024PrivateKey, ec.EllipticCurvePrivateKey]:
    if not isinstance(private, bytes) or len(private) != PRIVATE_KEY_BYTES or not any(private[:SEED_BYTES]):
        raise Refusal("invalid-key", f"An HPKE private key is {PRIVATE_KEY_BYTES} bytes and not zero.")
    try:
        scalar = ec.derive_private_key(int.from_bytes(private[SEED_BYTES:], "big"), _CURVE)
    except ValueError as error:
        raise Refusal("invalid-key", "The P-384 scalar is not between 1 and the group order.") from error
    return mlkem.MLKEM1024PrivateKey.from_seed_bytes(private[:SEED_BYTES]), scalar


def _public_parts(public: object) -> tuple[mlkem.MLKEM1024PublicKey, ec.EllipticCurvePublicKey]:
    if not isinstance(public, bytes) or len(public) != PUBLIC_KEY_BYTES or not any(public[:MLKEM_PUBLIC_BYTES]):
        raise Refusal("invalid-key", f"An HPKE public key is {PUBLIC_KEY_BYTES} bytes and not zero.")
    try:
        kem_key = mlkem.MLKEM1024PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES])
        return kem_key, ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public[MLKEM_PUBLIC_BYTES:])
    except ValueError as error:
        raise Refusal("invalid-key", "The HPKE public key is not an ML-KEM key with a point on P-384.") from error
