"""Deterministic encodings: the only bytes of QF/1 that are ever hashed, signed or authenticated.

Structures are RFC 8949 section 4.2.1 deterministic CBOR; concatenations are length-prefixed, so
that no two different inputs share an encoding (docs/protocol.md, "Encoding").
"""

import functools
import hashlib
from typing import Any

import cbor2

from qflare_protocol import PROTOCOL
from qflare_protocol.errors import Refusal

MAX_NESTING = 16
MAX_ITEMS = 1 << 20
_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(2, 8)  # major types, RFC 8949 section 3.1
_ONE_BYTE, _EIGHT_BYTES, _INDEFINITE = 24, 27, 31  # additional information, RFC 8949 section 3
_SIMPLE_AND_FLOATS = frozenset({20, 21, 22, 25, 26, 27})  # false, true, null; half, single, double
# The one-byte integer keys sort alike in the orders of RFC 8949 section 4.2.1 and of RFC 7049 section 3.9.
_INTEGER_KEYS = range(24)


@functools.cache
def label(purpose: str) -> bytes:
    """Return the domain-separation label `QFLARE/1 <purpose>` as bytes."""
    return f"{PROTOCOL} {purpose}".encode("ascii")


def frame(*fields: bytes) -> bytes:
    """Concatenate fields, each behind its length as 8 bytes big-endian."""
    return b"".join([len(field).to_bytes(8, "big") + field for field in fields])


def digest(purpose: str, *fields: bytes) -> bytes:
    """Return the 64-byte SHA3-512 digest of the label and the framed fields (FIPS 202)."""
    return hashlib.sha3_512(frame(label(purpose), *fields)).digest()


def encode(value: Any) -> bytes:
    """Encode maps, lists, text, bytes, integers, floats, booleans and None as deterministic CBOR."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, what: str, maximum_bytes: int = 1 << 20) -> Any:
    """Decode one deterministic CBOR item and refuse every other encoding of it.

    `what` names the structure in the refusal. Raises `Refusal("malformed-message")` for data that
    is too long, not CBOR, tagged, nested too deeply, of too many items, followed by other bytes or
    not deterministic. Nothing is built from the data before its headers have been walked over.
    """
    value = _decoded(data, what, maximum_bytes)
    if encode(value) != data:
        raise Refusal("malformed-message", f"The {what} is not in deterministic CBOR encoding.")
    return value


def decode_unordered(data: bytes, *, what: str, maximum_bytes: int) -> Any:
    """Decode one CBOR item of somebody else's making, whose maps are in any order.

    For structures that another protocol defines and signs; nothing of QF/1 is read so. Raises
    `Refusal("malformed-message")` as `decode` does, for everything but the order.
    """
    value = _decoded(data, what, maximum_bytes)
    if cbor2.dumps(value) != data:
        raise Refusal("malformed-message", f"The {what} is not in the shortest CBOR encoding.")
    return value


def _decoded(data: bytes, what: str, maximum_bytes: int) -> Any:
    if len(data) > maximum_bytes:
        raise Refusal("malformed-message", f"The {what} is longer than {maximum_bytes} bytes.")
    _HeaderWalk(data, what).message()
    try:
        return cbor2.loads(data, allow_duplicate_keys=False)
    except (cbor2.CBORError, ValueError) as error:
        raise Refusal("malformed-message", f"The {what} is not valid CBOR.") from error


class _HeaderWalk:
    """Reads the headers of CBOR items (RFC 8949 section 3) in linear time and bounded depth.

    The decoder resolves tags by itself: shared references make a graph out of few bytes that takes
    exponential time to walk. It also hashes map keys, and numbers and arrays can be made to collide.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what = data, what
        self._position = self._items = 0

    def message(self) -> None:
        """Walk over one item that is all of the data. Raises `Refusal("malformed-message")`."""
        self._item(MAX_NESTING)
        if self._position != len(self._data):
            raise self._refusal("is followed by other bytes")

    def _item(self, depth: int) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise self._refusal(f"holds more than {MAX_ITEMS} items")
        if depth == 0:
            raise self._refusal("is nested too deeply")
        major, argument = self._header()
        if major in (_BYTES, _TEXT):
            self._skip(argument)
        elif major in (_ARRAY, _MAP):
            for _ in range(argument):
                if major == _MAP:
                    self._key()
                self._item(depth - 1)

    def _key(self) -> None:
        initial = self._data[self._position : self._position + 1]
        if initial and initial[0] not in _INTEGER_KEYS and initial[0] >> 5 != _TEXT:
            raise self._refusal("has a map key that is neither text nor 0 to 23")
        self._item(depth=1)

    def _header(self) -> tuple[int, int]:
        """Return major type and argument: a value or, for strings, arrays and maps, a length."""
        major, information = divmod(self._taken(1)[0], 32)
        if major == _TAG:
            raise self._refusal("holds a tag, which QF/1 does not use")
        if information == _INDEFINITE and major in (_BYTES, _TEXT, _ARRAY, _MAP):
            raise self._refusal("has a part of indefinite length")
        if information > _EIGHT_BYTES:
            raise self._refusal("is not valid CBOR")
        if major == _SIMPLE and information not in _SIMPLE_AND_FLOATS:
            raise self._refusal("holds a value of a type that QF/1 does not use")
        if information < _ONE_BYTE:
            return major, information
        return major, int.from_bytes(self._taken(1 << (information - _ONE_BYTE)), "big")

    def _taken(self, length: int) -> bytes:
        start = self._position
        self._skip(length)
        return self._data[start : self._position]

    def _skip(self, length: int) -> None:
        self._position += length
        if self._position > len(self._data):
            raise self._refusal("is not valid CBOR")

    def _refusal(self, fault: str) -> Refusal:
        return Refusal("malformed-message", f"The {self._what} {fault}.")
