"""Which engine serves which algorithm in this process.

An engine passes its known-answer self-test before an algorithm is handed out; one that fails serves
nothing, and no other engine steps in for it.
"""

from functools import cache

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import frodo, liboqs_engine, self_test
from qflare_protocol.pqc.cryptography_engine import MLDsa, MLKem
from qflare_protocol.pqc.interface import KemAlgorithm, KemEngine, SignatureAlgorithm

# name: (private, public, ciphertext, shared secret) bytes
_KEM_SIZES = {
    "ML-KEM-768": (64, 1184, 1088, 32),
    "ML-KEM-1024": (64, 1568, 1568, 32),
    frodo.NAME: (
        frodo.PRIVATE_KEY_BYTES,
        frodo.PUBLIC_KEY_BYTES,
        frodo.CIPHERTEXT_BYTES,
        frodo.SHARED_SECRET_BYTES,
    ),
}
# name: (private, public, signature) bytes and the IANA COSE algorithm number
_MLDSA_SIZES = {
    "ML-DSA-44": (32, 1312, 2420, -48),
    "ML-DSA-65": (32, 1952, 3309, -49),
    "ML-DSA-87": (32, 2592, 4627, -50),
}

KEM_NAMES = tuple(_KEM_SIZES)
SIGNATURE_NAMES = tuple(_MLDSA_SIZES)


@cache
def kem(name: str) -> KemAlgorithm:
    """Return the tested KEM of that name. Raises `Refusal("algorithm-unavailable")` where no engine serves it."""
    algorithm = untested_kem(name)
    self_test.check_kem(algorithm)
    return algorithm


@cache
def signature(name: str) -> SignatureAlgorithm:
    """Return the tested signature scheme of that name. Raises `Refusal("algorithm-unavailable")`."""
    algorithm = untested_signature(name)
    self_test.check_signature(algorithm)
    return algorithm


def untested_kem(name: str) -> KemAlgorithm:
    """Return the KEM before its self-test: for the status report, which shows what failed."""
    if name not in _KEM_SIZES:
        raise Refusal("algorithm-unavailable", f"No engine here serves the KEM {name}.")
    return KemAlgorithm(name, *_KEM_SIZES[name], implementation=_kem_engine(name))


def untested_signature(name: str) -> SignatureAlgorithm:
    """Return the signature scheme before its self-test: for the status report."""
    if name not in _MLDSA_SIZES:
        raise Refusal("algorithm-unavailable", f"No engine here serves the signature scheme {name}.")
    return SignatureAlgorithm(name, *_MLDSA_SIZES[name], implementation=MLDsa(name))


def _kem_engine(name: str) -> KemEngine:
    if name != frodo.NAME:
        return MLKem(name)
    return liboqs_engine.salted_frodo640() or frodo.Frodo640()
