"""Deterministic encodings: the only bytes of QF/1 that are ever hashed, signed or authenticated.

Structures are RFC 8949 section 4.2.1 deterministic CBOR; concatenations are length-prefixed, so
that no two different inputs share an encoding (docs/protocol.md, "Encoding").
"""

import hashlib
import io
from typing import Any

import cbor2

from qflare_protocol import PROTOCOL
from qflare_protocol.errors import Refusal

MAX_NESTING = 16
# The one-byte integer keys sort alike in the orders of RFC 8949 section 4.2.1 and of RFC 7049 section 3.9.
_INTEGER_KEYS = range(24)
_INTEGERS = range(-(2**64), 2**64)  # what CBOR carries without the tags of big numbers


def label(purpose: str) -> bytes:
    """Return the domain-separation label `QFLARE/1 <purpose>` as bytes."""
    return f"{PROTOCOL} {purpose}".encode("ascii")


def frame(*fields: bytes) -> bytes:
    """Concatenate fields, each behind its length as 8 bytes big-endian."""
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)


def digest(purpose: str, *fields: bytes) -> bytes:
    """Return the 64-byte SHA3-512 digest of the label and the framed fields (FIPS 202)."""
    return hashlib.sha3_512(frame(label(purpose), *fields)).digest()


def encode(value: Any) -> bytes:
    """Encode maps, lists, text, bytes, integers, floats, booleans and None as deterministic CBOR."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, what: str, maximum_bytes: int = 1 << 20) -> Any:
    """Decode one deterministic CBOR item and refuse every other encoding of it.

    `what` names the structure in the refusal. Raises `Refusal("malformed-message")` for data that
    is too long, not CBOR, tagged, nested too deeply, followed by other bytes or not deterministic.
    """
    if len(data) > maximum_bytes:
        raise Refusal("malformed-message", f"The {what} is longer than {maximum_bytes} bytes.")
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise Refusal("malformed-message", f"The {what} is not valid CBOR.") from error
    if stream.read(1):
        raise Refusal("malformed-message", f"The {what} is followed by other bytes.")
    _refuse_foreign_types(value, what, MAX_NESTING)
    if encode(value) != data:
        raise Refusal("malformed-message", f"The {what} is not in deterministic CBOR encoding.")
    return value


def _refuse_foreign_types(value: Any, what: str, depth: int) -> None:
    if depth == 0:
        raise Refusal("malformed-message", f"The {what} is nested too deeply.")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str and not (type(key) is int and key in _INTEGER_KEYS):
                raise Refusal("malformed-message", f"The {what} has a map key that is neither text nor 0 to 23.")
            _refuse_foreign_types(item, what, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_foreign_types(item, what, depth - 1)
    elif type(value) is int and value not in _INTEGERS:
        raise Refusal("malformed-message", f"The {what} holds an integer of more than 64 bits.")
    elif value is not None and not isinstance(value, str | bytes | int | float | bool):
        raise Refusal("malformed-message", f"The {what} holds a value of a type that QF/1 does not use.")
