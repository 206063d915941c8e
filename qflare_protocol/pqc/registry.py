"""Which engine serves which algorithm in this process."""

from functools import cache

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.cryptography_engine import MLDsa, MLKem
from qflare_protocol.pqc.interface import KemAlgorithm, SignatureAlgorithm

# name: (private, public, ciphertext, shared secret) bytes
_MLKEM_SIZES = {"ML-KEM-768": (64, 1184, 1088, 32), "ML-KEM-1024": (64, 1568, 1568, 32)}
# name: (private, public, signature) bytes and the IANA COSE algorithm number
_MLDSA_SIZES = {"ML-DSA-44": (32, 1312, 2420, -48), "ML-DSA-65": (32, 1952, 3309, -49), "ML-DSA-87": (32, 2592, 4627, -50)}


@cache
def kem(name: str) -> KemAlgorithm:
    """Return the KEM of that name. Raises `Refusal("algorithm-unavailable")` where no engine serves it."""
    if name in _MLKEM_SIZES:
        return KemAlgorithm(name, *_MLKEM_SIZES[name], implementation=MLKem(name))
    raise Refusal("algorithm-unavailable", f"No engine here serves the KEM {name}.")


@cache
def signature(name: str) -> SignatureAlgorithm:
    """Return the signature scheme of that name. Raises `Refusal("algorithm-unavailable")`."""
    if name in _MLDSA_SIZES:
        return SignatureAlgorithm(name, *_MLDSA_SIZES[name], implementation=MLDsa(name))
    raise Refusal("algorithm-unavailable", f"No engine here serves the signature scheme {name}.")
