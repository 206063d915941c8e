"""FrodoKEM-640-AES, -976-AES and -1344-AES, the salted variants of ISO/IEC 18033-2:2006/Amd 2, in NumPy.

Matrix products run as float64 BLAS calls and are exact: every summand and every partial sum is an
integer below 2^53, where float64 stops counting. An entry of A, B or C is below 2^16 and a noise value
at most 12, 10 and 6 for the three parameter sets, so a sum over n products is at most

    FrodoKEM-640-AES     640 * 65535 * 12 < 2^29
    FrodoKEM-976-AES     976 * 65535 * 10 < 2^30
    FrodoKEM-1344-AES   1344 * 65535 *  6 < 2^29

Noise sampling, comparison and selection have no branch and no index that depends on a secret. The
methods ending in `_from` take their randomness as argument, for known-answer tests.

Shapes: A is n x n, S and E are n x 8, S' and E' are 8 x n, C and V are 8 x 8; all entries are integers
modulo q.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from qflare_protocol.errors import Refusal
from qflare_protocol.pqc.interface import EngineUnavailable, KemEngine, KeyPair

ENGINE = "numpy"

_NBAR, _SEED_A_BYTES = 8, 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrodoParameters:
    """One parameter set of FrodoKEM with a salt; `security_bytes` is the size of the shared secret.

    `cdf` is the cumulative distribution of the noise magnitude, scaled to 2^15, without its last value,
    which is never exceeded: the largest magnitude is its length.
    """

    name: str
    n: int
    log_q: int
    extracted_bits: int
    shake: Any
    security_bytes: int
    cdf: tuple[int, ...]

    @property
    def seed_se_bytes(self) -> int:
        """The size of the noise seed seedSE: twice the security level."""
        return 2 * self.security_bytes

    @property
    def salt_bytes(self) -> int:
        """The size of the salt at the end of a ciphertext: twice the security level."""
        return 2 * self.security_bytes

    @property
    def b_bytes(self) -> int:
        """The size of a packed n x 8 matrix."""
        return self.n * _NBAR * self.log_q // 8

    @property
    def c_bytes(self) -> int:
        """The size of a packed 8 x 8 matrix."""
        return _NBAR * _NBAR * self.log_q // 8

    @property
    def s_bytes(self) -> int:
        """The size of S^T in a private key: 16 bits an entry."""
        return self.n * _NBAR * 2

    @property
    def public_key_bytes(self) -> int:
        """seedA || B."""
        return _SEED_A_BYTES + self.b_bytes

    @property
    def private_key_bytes(self) -> int:
        """s || public key || S^T || hash of the public key."""
        return 2 * self.security_bytes + self.public_key_bytes + self.s_bytes

    @property
    def ciphertext_bytes(self) -> int:
        """c1 || c2 || salt."""
        return self.b_bytes + self.c_bytes + self.salt_bytes

    @property
    def key_randomness_bytes(self) -> int:
        """s || seedSE || z, what `generate_from` takes."""
        return self.security_bytes + self.seed_se_bytes + _SEED_A_BYTES

    @property
    def encapsulation_randomness_bytes(self) -> int:
        """u || salt, what `encapsulate_from` takes."""
        return self.security_bytes + self.salt_bytes


PARAMETERS: dict[str, FrodoParameters] = {
    parameters.name: parameters
    for parameters in (
        FrodoParameters(
            name="FrodoKEM-640-AES",
            n=640,
            log_q=15,
            extracted_bits=2,
            shake=hashlib.shake_128,
            security_bytes=16,
            cdf=(4643, 13363, 20579, 25843, 29227, 31145, 32103, 32525, 32689, 32745, 32762, 32766),
        ),
        FrodoParameters(
            name="FrodoKEM-976-AES",
            n=976,
            log_q=16,
            extracted_bits=3,
            shake=hashlib.shake_256,
            security_bytes=24,
            cdf=(5638, 15915, 23689, 28571, 31116, 32217, 32613, 32731, 32760, 32766),
        ),
        FrodoParameters(
            name="FrodoKEM-1344-AES",
            n=1344,
            log_q=16,
            extracted_bits=4,
            shake=hashlib.shake_256,
            security_bytes=32,
            cdf=(9142, 23462, 30338, 32361, 32725, 32765),
        ),
    )
}


def serve_kem(name: str) -> "Frodo":
    """Return the engine for the FrodoKEM of that name. Raises `EngineUnavailable` for other algorithms."""
    if name not in PARAMETERS:
        raise EngineUnavailable(f"the engine numpy does not have {name}")
    return Frodo(PARAMETERS[name])


class Frodo(KemEngine):
    """One FrodoKEM behind the engine interface; the private key is s || pk || S^T || pkh."""

    engine = ENGINE

    def __init__(self, parameters: FrodoParameters) -> None:
        self.parameters = parameters
        self._cdf = np.array(parameters.cdf, dtype=np.uint16)[:, None]

    def generate(self) -> KeyPair:
        return self.generate_from(secrets.token_bytes(self.parameters.key_randomness_bytes))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return self.encapsulate_from(public, secrets.token_bytes(self.parameters.encapsulation_randomness_bytes))

    def generate_from(self, randomness: bytes) -> KeyPair:
        """Make the key pair of `key_randomness_bytes` random bytes s || seedSE || z."""
        p = self.parameters
        s, seed_se, z = _split(randomness, p.security_bytes, p.seed_se_bytes, _SEED_A_BYTES)
        seed_a = self._shake(z, size=_SEED_A_BYTES)
        noise = self._noise(0x5F, seed_se, 2 * p.n * _NBAR)
        s_transposed, e = noise[: p.n * _NBAR].reshape(_NBAR, p.n), noise[p.n * _NBAR :].reshape(p.n, _NBAR)
        b = self._matrix_a(seed_a) @ s_transposed.T + e
        public = seed_a + self._pack(b)
        private = s + public + s_transposed.astype("<i2").tobytes() + self._shake(public, size=p.security_bytes)
        return KeyPair(private=private, public=public)

    def encapsulate_from(self, public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
        """Return (shared secret, ciphertext) for the public key and random bytes u || salt.

        Raises `Refusal("invalid-key")` for a public key whose matrix B is all zeros.
        """
        p = self.parameters
        if not any(public[_SEED_A_BYTES:]):
            raise Refusal("invalid-key", "The FrodoKEM public key holds an all-zero matrix.")
        u, salt = _split(randomness, p.security_bytes, p.salt_bytes)
        packed, k = self._encrypt(public, self._shake(public, size=p.security_bytes), u, salt)
        ciphertext = packed + salt
        return self._shake(ciphertext, k, size=p.security_bytes), ciphertext

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        """Return the shared secret; a ciphertext that was not made for this key gives a pseudorandom one."""
        p = self.parameters
        s, public, s_bytes, public_hash = _split(
            private, p.security_bytes, p.public_key_bytes, p.s_bytes, p.security_bytes
        )
        c1, c2, salt = _split(ciphertext, p.b_bytes, p.c_bytes, p.salt_bytes)
        s_transposed = np.frombuffer(s_bytes, dtype="<i2").reshape(_NBAR, p.n).astype(np.float64)
        u = self._decode(self._unpack(c2, _NBAR) - self._unpack(c1, _NBAR) @ s_transposed.T)
        packed, k = self._encrypt(public, public_hash, u, salt)
        chosen = _select(hmac.compare_digest(packed, c1 + c2), k, s)
        return self._shake(ciphertext, chosen, size=p.security_bytes)

    def _encrypt(self, public: bytes, public_hash: bytes, u: bytes, salt: bytes) -> tuple[bytes, bytes]:
        """Return (c1 || c2, k): the deterministic encryption of u under the seed derived from it."""
        p = self.parameters
        seed_a, b_bytes = _split(public, _SEED_A_BYTES, p.b_bytes)
        seeds = self._shake(public_hash, u, salt, size=p.seed_se_bytes + p.security_bytes)
        seed_se, k = _split(seeds, p.seed_se_bytes, p.security_bytes)
        noise = self._noise(0x96, seed_se, (2 * p.n + _NBAR) * _NBAR)
        s, e, e2 = (part.reshape(_NBAR, -1) for part in np.split(noise, [p.n * _NBAR, 2 * p.n * _NBAR]))
        c1 = s @ self._matrix_a(seed_a) + e
        c2 = s @ self._unpack(b_bytes, p.n) + e2 + self._encode(u)
        return self._pack(c1) + self._pack(c2), k

    def _matrix_a(self, seed_a: bytes) -> Floats:
        """Expand seedA to A: AES-128-ECB over (row, column) blocks; entries are left modulo 2^16."""
        n = self.parameters.n
        encryptor = Cipher(algorithms.AES128(seed_a), modes.ECB()).encryptor()  # noqa: S305 - a PRF, distinct blocks
        return np.frombuffer(encryptor.update(self._a_blocks), dtype="<u2").reshape(n, n).astype(np.float64)

    @cached_property
    def _a_blocks(self) -> bytes:
        """The AES input: for each row and each eighth column, both as 16-bit integers, then zeros."""
        n = self.parameters.n
        blocks = np.zeros((n, n // 8, 8), dtype="<u2")
        blocks[:, :, 0] = np.arange(n)[:, None]
        blocks[:, :, 1] = np.arange(0, n, 8)[None, :]
        return blocks.tobytes()

    def _noise(self, domain: int, seed_se: bytes, count: int) -> Floats:
        """Sample `count` noise values from SHAKE(domain || seedSE): the lowest bit is the sign."""
        raw = np.frombuffer(self._shake(bytes([domain]), seed_se, size=2 * count), dtype="<u2")
        magnitude = ((raw >> 1)[None, :] > self._cdf).sum(axis=0, dtype=np.int16)
        noise: Floats = (magnitude * (1 - 2 * (raw & 1).astype(np.int16))).astype(np.float64)
        return noise

    def _pack(self, matrix: Floats) -> bytes:
        """Pack the entries modulo q, row by row, as big-endian integers of log2(q) bits."""
        log_q = self.parameters.log_q
        reduced = (matrix.astype(np.int64) & ((1 << log_q) - 1)).astype(">u2")
        if log_q == 16:
            return reduced.tobytes()
        bits = np.unpackbits(reduced.view(np.uint8)).reshape(-1, 16)
        return np.packbits(bits[:, 16 - log_q :]).tobytes()

    def _unpack(self, packed: bytes, rows: int) -> Floats:
        """Invert `_pack` for a matrix of so many rows."""
        log_q = self.parameters.log_q
        if log_q == 16:
            return np.frombuffer(packed, dtype=">u2").reshape(rows, -1).astype(np.float64)
        bits = np.zeros((len(packed) * 8 // log_q, 16), dtype=np.uint8)
        bits[:, 16 - log_q :] = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).reshape(-1, log_q)
        return np.packbits(bits).view(">u2").reshape(rows, -1).astype(np.float64)

    def _encode(self, u: bytes) -> Floats:
        """Place each 2, 3 or 4 bits of u, low bits first, in the top bits of an entry of an 8 x 8 matrix."""
        p = self.parameters
        bits = np.unpackbits(np.frombuffer(u, dtype=np.uint8), bitorder="little").reshape(-1, p.extracted_bits)
        values = bits @ (1 << np.arange(p.extracted_bits))
        return values.reshape(_NBAR, _NBAR).astype(np.float64) * (1 << (p.log_q - p.extracted_bits))

    def _decode(self, matrix: Floats) -> bytes:
        """Round each entry to the nearest multiple of q / 2^bits and collect the bits it stands for."""
        p = self.parameters
        shift = p.log_q - p.extracted_bits
        values = (matrix.astype(np.int64) + (1 << (shift - 1))) >> shift
        bits = (values[:, :, None] >> np.arange(p.extracted_bits)) & 1
        return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()

    def _shake(self, *parts: bytes, size: int) -> bytes:
        output: bytes = self.parameters.shake(b"".join(parts)).digest(size)
        return output


def _select(condition: bool, first: bytes, second: bytes) -> bytes:
    """Return `first` where the condition holds, else `second`, by masking and without a branch."""
    mask = -int(condition) & ((1 << (8 * len(first))) - 1)
    a, b = int.from_bytes(first, "big"), int.from_bytes(second, "big")
    return (b ^ (mask & (a ^ b))).to_bytes(len(first), "big")


def _split(data: bytes, *sizes: int) -> list[bytes]:
    if len(data) != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} bytes, not {len(data)}")
    ends = np.cumsum(sizes)
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
