"""HPKE (RFC 9180, with the hybrid KEM of draft-ietf-hpke-pq) to the enclave's round key.

Suite: KEM MLKEM1024-P384, KDF SHAKE256, AEAD AES-256-GCM. An attacker has to break both ML-KEM-1024
and P-384; each message is a single shot with its own encapsulation.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM1024P384PrivateKey,
    MLKEM1024P384PublicKey,
    Suite,
)

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import KeyPair, hybrid

PRIVATE_KEY_BYTES = hybrid.MLKEM_SEED_BYTES + hybrid.SCALAR_BYTES
PUBLIC_KEY_BYTES = hybrid.MLKEM1024_PUBLIC_BYTES + hybrid.POINT_BYTES
OVERHEAD_BYTES = hybrid.MLKEM1024_CIPHERTEXT_BYTES + hybrid.POINT_BYTES + 16

_SUITE = Suite(KEM.MLKEM1024_P384, KDF.SHAKE256, AEAD.AES_256_GCM)


def generate() -> KeyPair:
    """Make a key pair of MLKEM1024-P384: private = ML-KEM seed (64 bytes) || P-384 scalar (48, big-endian);
    public = ML-KEM encapsulation key (1568 bytes) || P-384 uncompressed point (97).
    """
    return hybrid.MLKem1024P384().generate()


def public_key(private: bytes) -> bytes:
    """Derive the 1665-byte public key. Raises `Refusal("invalid-key")`."""
    return hybrid.p384_public_key(_checked_private(private))


def check_public_key(public: object) -> bytes:
    """Return the key when its length and form are right. Raises `Refusal("invalid-key")`."""
    checked = _checked_public(public)
    hybrid.p384_public_parts(checked)
    return checked


def seal(public: bytes, plaintext: bytes, *, info: bytes) -> bytes:
    """Seal a short plaintext; the result is `OVERHEAD_BYTES` (1681) longer than it.

    `info` is authenticated and must be the same at opening. Raises `Refusal("invalid-key")`.
    """
    return _SUITE.encrypt(plaintext, MLKEM1024P384PublicKey(*hybrid.p384_public_parts(_checked_public(public))), info)


class Opener:
    """A private key made ready once, for opening many messages. Raises `Refusal("invalid-key")`."""

    def __init__(self, private: bytes) -> None:
        self._key = MLKEM1024P384PrivateKey(*hybrid.p384_private_parts(_checked_private(private)))

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Return the plaintext sealed to this key under the same `info`. Raises `Refusal("decryption-failed")`."""
        if len(sealed) < OVERHEAD_BYTES:
            raise Refusal("decryption-failed", f"An HPKE message has at least {OVERHEAD_BYTES} bytes.")
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError) as error:
            raise Refusal("decryption-failed", "The HPKE message does not open under this key and context.") from error


def open_sealed(private: bytes, sealed: bytes, *, info: bytes) -> bytes:
    """Return the plaintext of one message; see `Opener`.

    Raises `Refusal("invalid-key")` for a private key of another form and
    `Refusal("decryption-failed")` for everything else that is wrong.
    """
    return Opener(private).open(sealed, info=info)


def _checked_private(private: object) -> bytes:
    if (
        not isinstance(private, bytes)
        or len(private) != PRIVATE_KEY_BYTES
        or not any(private[: hybrid.MLKEM_SEED_BYTES])
    ):
        raise Refusal("invalid-key", f"An HPKE private key is {PRIVATE_KEY_BYTES} bytes and not zero.")
    return private


def _checked_public(public: object) -> bytes:
    if (
        not isinstance(public, bytes)
        or len(public) != PUBLIC_KEY_BYTES
        or not any(public[: hybrid.MLKEM1024_PUBLIC_BYTES])
    ):
        raise Refusal("invalid-key", f"An HPKE public key is {PUBLIC_KEY_BYTES} bytes and not zero.")
    return public
