"""HKDF-SHA3-512 (RFC 5869) and HMAC-SHA3-512 (RFC 2104): the only key derivation of QF/1."""

import hashlib
import hmac

from qflare_protocol.encoding import frame, label

HASH_BYTES = 64


def extract(salt: bytes, *secrets: bytes) -> bytes:
    """Return the 64-byte pseudorandom key of the framed secrets (RFC 5869 section 2.2)."""
    return hmac.digest(salt or bytes(HASH_BYTES), frame(*secrets), hashlib.sha3_512)


def expand(key: bytes, purpose: str, *context: bytes, length: int = 32) -> bytes:
    """Return `length` bytes (at most 16,320) for one purpose and context (RFC 5869 section 2.3).

    `info` is the framed label and context, so two purposes never share a derived key.
    """
    if not 0 < length <= 255 * HASH_BYTES:
        raise ValueError("HKDF-Expand gives between 1 and 16,320 bytes.")
    info = frame(label(purpose), *context)
    output = block = hmac.digest(key, info + b"\x01", hashlib.sha3_512)
    for counter in range(2, -(-length // HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha3_512)
        output += block
    return output[:length]


def mac(key: bytes, purpose: str, *fields: bytes) -> bytes:
    """Return the 64-byte HMAC-SHA3-512 of the label and the framed fields."""
    return hmac.digest(key, frame(label(purpose), *fields), hashlib.sha3_512)


def equal(first: bytes, second: bytes) -> bool:
    """Compare two byte strings in constant time."""
    return hmac.compare_digest(first, second)
