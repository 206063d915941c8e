"""Hybrid KEMs out of pyca/cryptography's primitives: whoever wants the secret has to break both parts.

X-Wing (draft-connolly-cfrg-xwing-kem): ML-KEM-768 and X25519. MLKEM1024-P384: ML-KEM-1024 and ECDH on
P-384, with the combiner of the HPKE KEM of that name (draft-ietf-hpke-pq). Both hash the secrets of the
parts together with the elliptic-curve keys; docs/protocol.md, section 2, has them byte by byte.

A bad part of a public key is `invalid-key`. A bad elliptic-curve part of a ciphertext is
`malformed-message`: no encapsulation makes one, it depends on nothing secret, and the two curves have no
implicit rejection to fall back on.
"""

import hashlib
import secrets

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.interface import KemEngine, KeyPair

ENGINE = "cryptography"

XWING = "X-Wing"
MLKEM1024_P384 = "MLKEM1024-P384"

_XWING_SEED_BYTES, _XWING_EXPANDED_BYTES = 32, 96
_XWING_LABEL = b"\\.//^\\"
_MLKEM768_PUBLIC_BYTES, _MLKEM768_CIPHERTEXT_BYTES = 1184, 1088

MLKEM_SEED_BYTES, SCALAR_BYTES = 64, 48
MLKEM1024_PUBLIC_BYTES, MLKEM1024_CIPHERTEXT_BYTES, POINT_BYTES = 1568, 1568, 97
_CURVE = ec.SECP384R1()


class XWing(KemEngine):
    """X-Wing with the 32-byte seed as private key."""

    engine = ENGINE

    def generate(self) -> KeyPair:
        seed = secrets.token_bytes(_XWING_SEED_BYTES)
        return KeyPair(private=seed, public=xwing_public_key(seed))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        ephemeral = x25519.X25519PrivateKey.generate()
        try:
            kem_key = mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM768_PUBLIC_BYTES])
            curve_key = x25519.X25519PublicKey.from_public_bytes(public[_MLKEM768_PUBLIC_BYTES:])
            kem_secret, kem_ciphertext = kem_key.encapsulate()
            curve_secret = ephemeral.exchange(curve_key)
        except ValueError as error:
            sentence = "The X-Wing public key is not an ML-KEM key with an X25519 key of large order."
            raise Refusal("invalid-key", sentence) from error
        point = ephemeral.public_key().public_bytes_raw()
        secret = _xwing_combined(kem_secret, curve_secret, point, public[_MLKEM768_PUBLIC_BYTES:])
        return secret, kem_ciphertext + point

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        kem_key, curve_key = _xwing_expanded(private)
        point = ciphertext[_MLKEM768_CIPHERTEXT_BYTES:]
        try:
            curve_secret = curve_key.exchange(x25519.X25519PublicKey.from_public_bytes(point))
        except ValueError as error:
            raise Refusal("malformed-message", "The X-Wing ciphertext holds an X25519 key of small order.") from error
        kem_secret = kem_key.decapsulate(ciphertext[:_MLKEM768_CIPHERTEXT_BYTES])
        return _xwing_combined(kem_secret, curve_secret, point, curve_key.public_key().public_bytes_raw())


def xwing_public_key(seed: bytes) -> bytes:
    """Derive the 1216-byte public key from the 32-byte seed."""
    kem_key, curve_key = _xwing_expanded(seed)
    return kem_key.public_key().public_bytes_raw() + curve_key.public_key().public_bytes_raw()


def _xwing_expanded(seed: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    expanded = hashlib.shake_256(seed).digest(_XWING_EXPANDED_BYTES)
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:MLKEM_SEED_BYTES]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[MLKEM_SEED_BYTES:]),
    )


def _xwing_combined(kem_secret: bytes, curve_secret: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    return hashlib.sha3_256(kem_secret + curve_secret + ephemeral + recipient + _XWING_LABEL).digest()


class MLKem1024P384(KemEngine):
    """MLKEM1024-P384; the private key is the ML-KEM seed (64 bytes) || the P-384 scalar (48, big-endian)."""

    engine = ENGINE

    def generate(self) -> KeyPair:
        seed = mlkem.MLKEM1024PrivateKey.generate().private_bytes_raw()
        scalar = ec.generate_private_key(_CURVE).private_numbers().private_value
        private = seed + scalar.to_bytes(SCALAR_BYTES, "big")
        return KeyPair(private=private, public=p384_public_key(private))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        kem_key, curve_key = p384_public_parts(public)
        ephemeral = ec.generate_private_key(_CURVE)
        kem_secret, kem_ciphertext = kem_key.encapsulate()
        point = _point(ephemeral.public_key())
        curve_secret = ephemeral.exchange(ec.ECDH(), curve_key)
        return _p384_combined(kem_secret, curve_secret, point, _point(curve_key)), kem_ciphertext + point

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        kem_key, curve_key = p384_private_parts(private)
        point = ciphertext[MLKEM1024_CIPHERTEXT_BYTES:]
        try:
            curve_secret = curve_key.exchange(ec.ECDH(), _curve_key(point))
        except ValueError as error:
            sentence = "The MLKEM1024-P384 ciphertext holds no uncompressed point of P-384."
            raise Refusal("malformed-message", sentence) from error
        kem_secret = kem_key.decapsulate(ciphertext[:MLKEM1024_CIPHERTEXT_BYTES])
        return _p384_combined(kem_secret, curve_secret, point, _point(curve_key.public_key()))


def p384_public_key(private: bytes) -> bytes:
    """Derive the 1665-byte public key from the 112-byte private key. Raises `Refusal("invalid-key")`."""
    kem_key, curve_key = p384_private_parts(private)
    return kem_key.public_key().public_bytes_raw() + _point(curve_key.public_key())


def p384_private_parts(private: bytes) -> tuple[mlkem.MLKEM1024PrivateKey, ec.EllipticCurvePrivateKey]:
    """Return both keys of a 112-byte private key. Raises `Refusal("invalid-key")` for a scalar out of range."""
    try:
        scalar = ec.derive_private_key(int.from_bytes(private[MLKEM_SEED_BYTES:], "big"), _CURVE)
    except ValueError as error:
        raise Refusal("invalid-key", "The P-384 scalar is not between 1 and the group order.") from error
    return mlkem.MLKEM1024PrivateKey.from_seed_bytes(private[:MLKEM_SEED_BYTES]), scalar


def p384_public_parts(public: bytes) -> tuple[mlkem.MLKEM1024PublicKey, ec.EllipticCurvePublicKey]:
    """Return both keys of a 1665-byte public key. Raises `Refusal("invalid-key")` for a key that is none."""
    try:
        kem_key = mlkem.MLKEM1024PublicKey.from_public_bytes(public[:MLKEM1024_PUBLIC_BYTES])
        return kem_key, _curve_key(public[MLKEM1024_PUBLIC_BYTES:])
    except ValueError as error:
        raise Refusal("invalid-key", "The public key is not an ML-KEM key with a point on P-384.") from error


def _curve_key(point: bytes) -> ec.EllipticCurvePublicKey:
    """Read an uncompressed point. Raises `ValueError` for another form and off the curve."""
    if point[0] != 4:
        raise ValueError("the point is not in the uncompressed form")
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _p384_combined(kem_secret: bytes, curve_secret: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    return hashlib.sha3_256(kem_secret + curve_secret + ephemeral + recipient + MLKEM1024_P384.encode()).digest()
