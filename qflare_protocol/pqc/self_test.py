"""Known-answer tests that an engine passes before it serves an algorithm in this process.

ML-KEM and the hybrids: a fixed private key and a ciphertext that no one made give the secret that
FIPS 203 and the combiner prescribe (implicit rejection, which Kyber1024 answers otherwise). FrodoKEM: the
NumPy code gives a known digest for fixed randomness and the serving engine opens that ciphertext, which
pins the salted variant. Classic McEliece: the engine opens what the specification makes of a chosen
error vector. ML-DSA: a fixed seed gives a known public key. SLH-DSA: hashlib alone verifies what the
engine signs with a key of NIST. All of them also pass a fresh round trip.
"""

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import frodo, hybrid, mceliece, slh_dsa
from qflare_protocol.pqc.interface import KemAlgorithm, KeyPair, SignatureAlgorithm

# SHA-256 of the answers; the code that gave them passes the Wycheproof, X-Wing and official FrodoKEM vectors.
_KNOWN_ANSWERS = {
    "ML-KEM-768": "842f98e818ff2feaa74ee996372f3df1a1d85a1373d1c8ad3329ed690c0e2b84",
    "ML-KEM-1024": "a4b99860e95f68637d17e36571546def1e9d279ca6daea53a4313e8c0f54ffec",
    "X-Wing": "9ba84d29b1afb808043a86b326152e15bc6b30f7f42193e22d9b38cfeb001962",
    "MLKEM1024-P384": "fd83b365a6458d52eda1b9f6ba45ac3e9ec474cd53028011019c9a2d04c5f5a2",
    "FrodoKEM-640-AES": "672357bb4a9d78ab75459f58fe36bff06f86ab3ae511cc94970cbab851980fd7",
    "FrodoKEM-976-AES": "821cfd3b70719f860e343cb68927c0459af5c619cda44231328b7e450dbbec79",
    "FrodoKEM-1344-AES": "1465bff1a703a19b1271a19f9f69a6e0b3d30a0eeed601279d00fc48746e438c",
    "ML-DSA-44": "cec606d352aba0650d219bc77c12af36b36f8089bee9720cb0cbf65e49c20dd8",
    "ML-DSA-65": "e933697f7a3d671b8c294452465230d4d433d337afd25b99dba884175541a855",
    "ML-DSA-87": "5a4abf269018c43865203aeea0502971b94198d7f4a0b640114caf2d68eb1c90",
}
# NIST ACVP, SLH-DSA-keyGen-FIPS205, tcId 21: the root of the public half follows from the three seeds.
_SLH_DSA_KEY = bytes.fromhex(
    "e2bdaa37c8cffe5e8d5676c23267890c31441758f573285881cdc82ab911dd84"
    "72dc8d26df6ef708f4c41af9fd04b65a8927927229891d47a60d67ecef3d2c17"
)
_MESSAGE = b"QFLARE/1 self-test"
_ENGINE_ERRORS = (Refusal, ValueError, RuntimeError, UnsupportedAlgorithm)


def check_kem(algorithm: KemAlgorithm) -> None:
    """Raise `Refusal("algorithm-unavailable")` unless the engine gives the known answers."""
    try:
        pair = algorithm.generate()
        known = _mceliece_holds(algorithm, pair) if algorithm.name == mceliece.NAME else _digest_holds(algorithm)
        secret, ciphertext = algorithm.encapsulate(pair.public)
        round_trip = algorithm.decapsulate(pair.private, ciphertext) == secret
    except _ENGINE_ERRORS as error:
        raise _failure(algorithm) from error
    if not known or not round_trip or (algorithm.name.startswith("ML-KEM") and _encapsulates_to_no_key(algorithm)):
        raise _failure(algorithm)


def check_signature(algorithm: SignatureAlgorithm) -> None:
    """Raise `Refusal("algorithm-unavailable")` unless the engine gives the known answers."""
    is_slh_dsa = algorithm.name not in _KNOWN_ANSWERS
    private = _SLH_DSA_KEY if is_slh_dsa else bytes(range(1, 1 + algorithm.private_key_bytes))
    try:
        public = algorithm.public_key(private)
        signature = algorithm.sign(private, _MESSAGE)
        algorithm.verify(public, _MESSAGE, signature)
    except _ENGINE_ERRORS as error:
        raise _failure(algorithm) from error
    if is_slh_dsa:
        known = slh_dsa.signature_holds(slh_dsa.public_half(_SLH_DSA_KEY), _MESSAGE, signature)
    else:
        known = _digest(public) == _KNOWN_ANSWERS[algorithm.name]
    if not known or _accepts(algorithm, public, b"another", signature):
        raise _failure(algorithm)


def _digest_holds(algorithm: KemAlgorithm) -> bool:
    answer = _frodo_answer(algorithm) if algorithm.name in frodo.PARAMETERS else _mlkem_answer(algorithm)
    return _digest(answer) == _KNOWN_ANSWERS[algorithm.name]


def _mlkem_answer(algorithm: KemAlgorithm) -> bytes:
    """Open a ciphertext that no one made; a hybrid's ends in a public key, or a point, that is one."""
    private = bytes(range(1, 1 + algorithm.private_key_bytes))
    curve_part = {
        hybrid.XWING: lambda: hybrid.xwing_public_key(private)[-32:],
        hybrid.MLKEM1024_P384: lambda: hybrid.p384_public_key(private)[-hybrid.POINT_BYTES :],
    }.get(algorithm.name, lambda: b"")()
    noise = hashlib.shake_128(_MESSAGE).digest(algorithm.ciphertext_bytes - len(curve_part))
    return algorithm.decapsulate(private, noise + curve_part)


def _encapsulates_to_no_key(algorithm: KemAlgorithm) -> bool:
    """Say whether the engine leaves out the modulus check of FIPS 203, section 7.2."""
    try:
        algorithm.encapsulate(b"\xff" * algorithm.public_key_bytes)
    except Refusal:
        return False
    return True


def _frodo_answer(algorithm: KemAlgorithm) -> bytes:
    reference = frodo.serve_kem(algorithm.name)
    pair = reference.generate_from(bytes(range(reference.parameters.key_randomness_bytes)))
    randomness = bytes(range(reference.parameters.encapsulation_randomness_bytes))
    secret, ciphertext = reference.encapsulate_from(pair.public, randomness)
    if algorithm.decapsulate(pair.private, ciphertext) != secret:
        raise ValueError("the engine opens the known ciphertext to another secret")
    return pair.private + ciphertext + secret


def _mceliece_holds(algorithm: KemAlgorithm, pair: KeyPair) -> bool:
    positions = range(0, 58 * mceliece.ERROR_WEIGHT, 58)
    secret, ciphertext = mceliece.encapsulate_error(pair.public, positions)
    undecodable = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    return algorithm.decapsulate(pair.private, ciphertext) == secret and algorithm.decapsulate(
        pair.private, undecodable
    ) == mceliece.rejected_secret(pair.private, undecodable)


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
