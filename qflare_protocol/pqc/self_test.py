"""Known-answer tests that an engine passes before it serves an algorithm in this process.

ML-KEM: a fixed seed and a ciphertext that no one made give the pseudorandom secret of FIPS 203
(implicit rejection). ML-DSA: a fixed seed gives a known public key. FrodoKEM: the NumPy code gives a
known digest for fixed randomness and the serving engine opens that ciphertext, which pins the salted
variant. All of them also pass a fresh round trip.
"""

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import frodo
from qflare_protocol.pqc.interface import KemAlgorithm, SignatureAlgorithm

# SHA-256 of the answers; the code that gave them passes the Wycheproof and the official FrodoKEM vectors.
_KNOWN_ANSWERS = {
    "ML-KEM-768": "842f98e818ff2feaa74ee996372f3df1a1d85a1373d1c8ad3329ed690c0e2b84",
    "ML-KEM-1024": "a4b99860e95f68637d17e36571546def1e9d279ca6daea53a4313e8c0f54ffec",
    "FrodoKEM-640-AES": "672357bb4a9d78ab75459f58fe36bff06f86ab3ae511cc94970cbab851980fd7",
    "ML-DSA-44": "cec606d352aba0650d219bc77c12af36b36f8089bee9720cb0cbf65e49c20dd8",
    "ML-DSA-65": "e933697f7a3d671b8c294452465230d4d433d337afd25b99dba884175541a855",
    "ML-DSA-87": "5a4abf269018c43865203aeea0502971b94198d7f4a0b640114caf2d68eb1c90",
}
_MESSAGE = b"QFLARE/1 self-test"
_ENGINE_ERRORS = (Refusal, ValueError, RuntimeError, UnsupportedAlgorithm)


def check_kem(algorithm: KemAlgorithm) -> None:
    """Raise `Refusal("algorithm-unavailable")` unless the engine gives the known answers."""
    try:
        answer = _frodo_answer(algorithm) if algorithm.name == frodo.NAME else _mlkem_answer(algorithm)
        pair = algorithm.generate()
        secret, ciphertext = algorithm.encapsulate(pair.public)
        round_trip = algorithm.decapsulate(pair.private, ciphertext) == secret
    except _ENGINE_ERRORS as error:
        raise _failure(algorithm) from error
    if not round_trip or _digest(answer) != _KNOWN_ANSWERS[algorithm.name]:
        raise _failure(algorithm)


def check_signature(algorithm: SignatureAlgorithm) -> None:
    """Raise `Refusal("algorithm-unavailable")` unless the engine gives the known answers."""
    seed = bytes(range(1, 1 + algorithm.private_key_bytes))
    try:
        public = algorithm.public_key(seed)
        signature = algorithm.sign(seed, _MESSAGE)
        algorithm.verify(public, _MESSAGE, signature)
    except _ENGINE_ERRORS as error:
        raise _failure(algorithm) from error
    if _digest(public) != _KNOWN_ANSWERS[algorithm.name] or _accepts(algorithm, public, b"another", signature):
        raise _failure(algorithm)


def _mlkem_answer(algorithm: KemAlgorithm) -> bytes:
    seed = bytes(range(1, 1 + algorithm.private_key_bytes))
    return algorithm.decapsulate(seed, hashlib.shake_128(_MESSAGE).digest(algorithm.ciphertext_bytes))


def _frodo_answer(algorithm: KemAlgorithm) -> bytes:
    pair = frodo.generate_from(bytes(range(frodo.KEY_RANDOMNESS_BYTES)))
    secret, ciphertext = frodo.encapsulate_from(pair.public, bytes(range(frodo.ENCAPSULATION_RANDOMNESS_BYTES)))
    if algorithm.decapsulate(pair.private, ciphertext) != secret:
        raise ValueError("the engine opens the known ciphertext to another secret")
    return pair.private + ciphertext + secret


def _accepts(algorithm: SignatureAlgorithm, public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        algorithm.verify(public, message, signature)
    except Refusal:
        return False
    return True


def _digest(answer: bytes) -> str:
    return hashlib.sha256(answer).hexdigest()


def _failure(algorithm: KemAlgorithm | SignatureAlgorithm) -> Refusal:
    sentence = f"The engine {algorithm.engine} failed its self-test for {algorithm.name}; repair or replace it."
    return Refusal("algorithm-unavailable", sentence)
