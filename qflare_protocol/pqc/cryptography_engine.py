"""ML-KEM (FIPS 203), ML-DSA (FIPS 204) and the hybrids of ML-KEM, as pyca/cryptography provides them.

Public keys that were used lately are kept parsed, found by their bytes, so that none can be stale: an eighth of
verifying ML-DSA-44, half of encapsulating to an ML-KEM-1024 key. Private keys are parsed anew for each
operation, although expanding an ML-DSA seed is about an eighth of signing: a cache would keep them in
memory for longer than their owners do.
"""

import functools
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.hybrid import MLKEM1024_P384, XWING, MLKem1024P384, XWing
from qflare_protocol.pqc.interface import EngineUnavailable, KemEngine, KeyPair, SignatureEngine

ENGINE = "cryptography"
PARSED_KEYS = 256  # of about 11 kB each

_MLKEM: dict[str, tuple[Any, Any]] = {
    "ML-KEM-768": (mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey),
    "ML-KEM-1024": (mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey),
}
_MLDSA: dict[str, tuple[Any, Any]] = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}
_HYBRIDS: dict[str, type[KemEngine]] = {XWING: XWing, MLKEM1024_P384: MLKem1024P384}


@functools.lru_cache(maxsize=PARSED_KEYS)
def _parsed(kind: Any, public: bytes) -> Any:
    """Return the public key of a kind. Raises `ValueError`, which is not kept."""
    return kind.from_public_bytes(public)


def serve_kem(name: str) -> KemEngine:
    """Return the engine for the KEM of that name. Raises `EngineUnavailable`."""
    if name in _HYBRIDS:
        return _HYBRIDS[name]()
    if name in _MLKEM:
        return MLKem(name)
    raise EngineUnavailable(f"cryptography does not have {name}")


def serve_signature(name: str) -> SignatureEngine:
    """Return the engine for the signature scheme of that name. Raises `EngineUnavailable`."""
    if name not in _MLDSA:
        raise EngineUnavailable(f"cryptography does not have {name}")
    return MLDsa(name)


class MLKem(KemEngine):
    """ML-KEM with the 64-byte seed (d, z) as private key."""

    engine = ENGINE

    def __init__(self, name: str) -> None:
        self._private, self._public = _MLKEM[name]

    def generate(self) -> KeyPair:
        key = self._private.generate()
        return KeyPair(private=key.private_bytes_raw(), public=key.public_key().public_bytes_raw())

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        try:
            secret, ciphertext = _parsed(self._public, public).encapsulate()
        except ValueError as error:
            raise Refusal("invalid-key", "The ML-KEM public key fails the FIPS 203 modulus check.") from error
        return secret, ciphertext

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        secret: bytes = self._private.from_seed_bytes(private).decapsulate(ciphertext)
        return secret


class MLDsa(SignatureEngine):
    """ML-DSA with the 32-byte seed as private key, pure mode, hedged signing."""

    engine = ENGINE

    def __init__(self, name: str) -> None:
        self._private, self._public = _MLDSA[name]

    def generate(self) -> KeyPair:
        key = self._private.generate()
        return KeyPair(private=key.private_bytes_raw(), public=key.public_key().public_bytes_raw())

    def public_key(self, private: bytes) -> bytes:
        public: bytes = self._private.from_seed_bytes(private).public_key().public_bytes_raw()
        return public

    def sign(self, private: bytes, message: bytes) -> bytes:
        signature: bytes = self._private.from_seed_bytes(private).sign(message)
        return signature

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        try:
            _parsed(self._public, public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True
