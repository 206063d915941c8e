"""What Classic McEliece 6960119 has to give by its specification (October 2022, no plaintext confirmation).

Key generation and encapsulation take their randomness inside the engines, so that a self-test has no
known answer. What decapsulation gives for a chosen error vector, or for a ciphertext that does not
decode, follows from the public key or the private key's last part and is computed here.

Rows of the public key have 5413 bits in 677 bytes, ciphertexts 1547 bits in 194; the bits that are left
have to be zero, and not every engine looks.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from qflare_protocol.errors import Refusal

NAME = "Classic-McEliece-6960119"
ERROR_WEIGHT = 119

_LENGTH, _ROWS, _ROW_BYTES = 6960, 1547, 677
_ROW_BITS_IN_LAST, _CIPHERTEXT_BITS_IN_LAST = 5413 % 8, 1547 % 8
_REJECTION_BYTES = _LENGTH // 8


def check_public_key_padding(public: bytes) -> None:
    """Raise `Refusal("invalid-key")` where an unused bit of a row is set."""
    last_bytes = np.frombuffer(public, dtype=np.uint8).reshape(_ROWS, _ROW_BYTES)[:, -1]
    if (last_bytes >> _ROW_BITS_IN_LAST).any():
        raise Refusal("invalid-key", f"The {NAME} public key has bits set beyond the end of a row.")


def check_ciphertext_padding(ciphertext: bytes) -> None:
    """Raise `Refusal("malformed-message")` where an unused bit is set."""
    if ciphertext[-1] >> _CIPHERTEXT_BITS_IN_LAST:
        raise Refusal("malformed-message", f"The {NAME} ciphertext has bits set beyond its end.")


def encapsulate_error(public: bytes, positions: Sequence[int]) -> tuple[bytes, bytes]:
    """Return (shared secret, 194-byte ciphertext) for the error vector that is 1 at 119 positions."""
    error = np.zeros(_LENGTH, dtype=np.uint8)
    error[list(positions)] = 1
    rows = np.frombuffer(public, dtype=np.uint8).reshape(_ROWS, _ROW_BYTES)
    columns = np.flatnonzero(error[_ROWS:])
    product = ((rows[:, columns >> 3] >> (columns & 7)) & 1).sum(axis=1) & 1
    syndrome = (error[:_ROWS] ^ product).astype(np.uint8)
    ciphertext = np.packbits(syndrome, bitorder="little").tobytes()
    return _hash(1, np.packbits(error, bitorder="little").tobytes(), ciphertext), ciphertext


def rejected_secret(private: bytes, ciphertext: bytes) -> bytes:
    """Return the secret for a ciphertext that does not decode: implicit rejection by the key's last part."""
    return _hash(0, private[-_REJECTION_BYTES:], ciphertext)


def _hash(prefix: int, data: bytes, ciphertext: bytes) -> bytes:
    return hashlib.shake_256(bytes([prefix]) + data + ciphertext).digest(32)
