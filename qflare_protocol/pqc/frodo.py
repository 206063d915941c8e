"""FrodoKEM-640-AES, the salted variant of ISO/IEC 18033-2:2006/Amd 2, in NumPy.

Matrix products run as float64 BLAS calls and are exact: an entry of A is below 2^16, a noise value
at most 12, so that a sum of 640 products stays below 2^29, far from the 2^53 where float64 stops
counting. Noise sampling, comparison and selection have no branch and no index that depends on a
secret. The functions ending in `_from` take their randomness as argument, for known-answer tests.

Shapes: A is 640 x 640, S and E are 640 x 8, S' and E' are 8 x 640, C and V are 8 x 8; all entries
are integers modulo 2^15.
"""

import hashlib
import hmac
import secrets
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.interface import KemEngine, KeyPair

ENGINE = "numpy"
NAME = "FrodoKEM-640-AES"

_N, _NBAR, _LOG_Q, _EXTRACTED_BITS = 640, 8, 15, 2
_MASK = (1 << _LOG_Q) - 1
_SEED_A_BYTES, _SECURITY_BYTES, _SEED_SE_BYTES, SALT_BYTES = 16, 16, 32, 32
_B_BYTES = _N * _NBAR * _LOG_Q // 8
_C_BYTES = _NBAR * _NBAR * _LOG_Q // 8
_S_BYTES = _N * _NBAR * 2
# The cumulative distribution of the noise magnitude, scaled to 2^15; its last value is never exceeded.
_CDF = np.array([4643, 13363, 20579, 25843, 29227, 31145, 32103, 32525, 32689, 32745, 32762, 32766], dtype=np.uint16)

PUBLIC_KEY_BYTES = _SEED_A_BYTES + _B_BYTES
PRIVATE_KEY_BYTES = _SECURITY_BYTES + PUBLIC_KEY_BYTES + _S_BYTES + _SECURITY_BYTES
CIPHERTEXT_BYTES = _B_BYTES + _C_BYTES + SALT_BYTES
SHARED_SECRET_BYTES = _SECURITY_BYTES
KEY_RANDOMNESS_BYTES = _SECURITY_BYTES + _SEED_SE_BYTES + _SEED_A_BYTES
ENCAPSULATION_RANDOMNESS_BYTES = _SECURITY_BYTES + SALT_BYTES

Floats = NDArray[np.float64]


class Frodo640(KemEngine):
    """FrodoKEM-640-AES behind the engine interface; the private key is s || pk || S^T || pkh."""

    engine = ENGINE

    def generate(self) -> KeyPair:
        return generate_from(secrets.token_bytes(KEY_RANDOMNESS_BYTES))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return encapsulate_from(public, secrets.token_bytes(ENCAPSULATION_RANDOMNESS_BYTES))

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        return decapsulate(private, ciphertext)


def generate_from(randomness: bytes) -> KeyPair:
    """Make the key pair of 64 random bytes s || seedSE || z."""
    s, seed_se, z = _split(randomness, _SECURITY_BYTES, _SEED_SE_BYTES, _SEED_A_BYTES)
    seed_a = _shake(z, size=_SEED_A_BYTES)
    noise = _noise(0x5F, seed_se, 2 * _N * _NBAR)
    s_transposed, e = noise[: _N * _NBAR].reshape(_NBAR, _N), noise[_N * _NBAR :].reshape(_N, _NBAR)
    b = _matrix_a(seed_a) @ s_transposed.T + e
    public = seed_a + _pack(b)
    private = s + public + s_transposed.astype("<i2").tobytes() + _shake(public, size=_SECURITY_BYTES)
    return KeyPair(private=private, public=public)


def encapsulate_from(public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    """Return (shared secret, ciphertext) for the public key and 48 random bytes u || salt.

    Raises `Refusal("invalid-key")` for a public key whose matrix B is all zeros.
    """
    if not any(public[_SEED_A_BYTES:]):
        raise Refusal("invalid-key", "The FrodoKEM public key holds an all-zero matrix.")
    u, salt = _split(randomness, _SECURITY_BYTES, SALT_BYTES)
    packed, k = _encrypt(public, _shake(public, size=_SECURITY_BYTES), u, salt)
    ciphertext = packed + salt
    return _shake(ciphertext, k, size=SHARED_SECRET_BYTES), ciphertext


def decapsulate(private: bytes, ciphertext: bytes) -> bytes:
    """Return the shared secret; a ciphertext that was not made for this key gives a pseudorandom one."""
    s, public, s_bytes, public_hash = _split(private, _SECURITY_BYTES, PUBLIC_KEY_BYTES, _S_BYTES, _SECURITY_BYTES)
    c1, c2, salt = _split(ciphertext, _B_BYTES, _C_BYTES, SALT_BYTES)
    s_transposed = np.frombuffer(s_bytes, dtype="<i2").reshape(_NBAR, _N).astype(np.float64)
    u = _decode(_unpack(c2, _NBAR) - _unpack(c1, _NBAR) @ s_transposed.T)
    packed, k = _encrypt(public, public_hash, u, salt)
    chosen = _select(hmac.compare_digest(packed, c1 + c2), k, s)
    return _shake(ciphertext, chosen, size=SHARED_SECRET_BYTES)


def _encrypt(public: bytes, public_hash: bytes, u: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Return (c1 || c2, k): the deterministic encryption of u under the seed derived from it."""
    seed_a, b_bytes = _split(public, _SEED_A_BYTES, _B_BYTES)
    seeds = _shake(public_hash, u, salt, size=_SEED_SE_BYTES + _SECURITY_BYTES)
    seed_se, k = _split(seeds, _SEED_SE_BYTES, _SECURITY_BYTES)
    noise = _noise(0x96, seed_se, (2 * _N + _NBAR) * _NBAR)
    s, e, e2 = (part.reshape(_NBAR, -1) for part in np.split(noise, [_N * _NBAR, 2 * _N * _NBAR]))
    c1 = s @ _matrix_a(seed_a) + e
    c2 = s @ _unpack(b_bytes, _N) + e2 + _encode(u)
    return _pack(c1) + _pack(c2), k


def _matrix_a(seed_a: bytes) -> Floats:
    """Expand seedA to A: AES-128-ECB over (row, column) blocks; entries are left modulo 2^16."""
    encryptor = Cipher(algorithms.AES128(seed_a), modes.ECB()).encryptor()  # noqa: S305 - a PRF over distinct blocks
    return np.frombuffer(encryptor.update(_a_blocks()), dtype="<u2").reshape(_N, _N).astype(np.float64)


@cache
def _a_blocks() -> bytes:
    """The AES input: for each row and each eighth column, both as 16-bit integers, then zeros."""
    blocks = np.zeros((_N, _N // 8, 8), dtype="<u2")
    blocks[:, :, 0] = np.arange(_N)[:, None]
    blocks[:, :, 1] = np.arange(0, _N, 8)[None, :]
    return blocks.tobytes()


def _noise(domain: int, seed_se: bytes, count: int) -> Floats:
    """Sample `count` noise values from SHAKE128(domain || seedSE): the lowest bit is the sign."""
    raw = np.frombuffer(_shake(bytes([domain]), seed_se, size=2 * count), dtype="<u2")
    magnitude = ((raw >> 1)[None, :] > _CDF[:, None]).sum(axis=0, dtype=np.int16)
    noise: Floats = (magnitude * (1 - 2 * (raw & 1).astype(np.int16))).astype(np.float64)
    return noise


def _pack(matrix: Floats) -> bytes:
    """Pack the entries modulo 2^15, row by row, as 15-bit big-endian integers."""
    reduced = (matrix.astype(np.int64) & _MASK).astype(">u2")
    bits = np.unpackbits(reduced.view(np.uint8)).reshape(-1, 16)
    return np.packbits(bits[:, 16 - _LOG_Q :]).tobytes()


def _unpack(packed: bytes, rows: int) -> Floats:
    """Invert `_pack` for a matrix of so many rows."""
    bits = np.zeros((len(packed) * 8 // _LOG_Q, 16), dtype=np.uint8)
    bits[:, 16 - _LOG_Q :] = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).reshape(-1, _LOG_Q)
    return np.packbits(bits).view(">u2").reshape(rows, -1).astype(np.float64)


def _encode(u: bytes) -> Floats:
    """Place each two bits of u, low bits first, in the top bits of an entry of an 8 x 8 matrix."""
    bits = np.unpackbits(np.frombuffer(u, dtype=np.uint8), bitorder="little").reshape(-1, _EXTRACTED_BITS)
    values = bits[:, 0] + 2 * bits[:, 1]
    return values.reshape(_NBAR, _NBAR).astype(np.float64) * (1 << (_LOG_Q - _EXTRACTED_BITS))


def _decode(matrix: Floats) -> bytes:
    """Round each entry to the nearest multiple of 2^13 and collect the two bits it stands for."""
    shift = _LOG_Q - _EXTRACTED_BITS
    values = (matrix.astype(np.int64) + (1 << (shift - 1))) >> shift
    bits = np.stack([values & 1, (values >> 1) & 1], axis=-1).astype(np.uint8)
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def _select(condition: bool, first: bytes, second: bytes) -> bytes:
    """Return `first` where the condition holds, else `second`, by masking and without a branch."""
    mask = -int(condition) & ((1 << (8 * len(first))) - 1)
    a, b = int.from_bytes(first, "big"), int.from_bytes(second, "big")
    return (b ^ (mask & (a ^ b))).to_bytes(len(first), "big")


def _shake(*parts: bytes, size: int) -> bytes:
    return hashlib.shake_128(b"".join(parts)).digest(size)


def _split(data: bytes, *sizes: int) -> list[bytes]:
    if len(data) != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} bytes, not {len(data)}")
    ends = np.cumsum(sizes)
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
