"""Deterministic CBOR: values with their one encoding, and encodings that are refused."""

import math
from typing import Any

from qflare_protocol.encoding import decode, encode
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

VALUES: tuple[Any, ...] = (
    0, 1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1,
    -1, -24, -25, -256, -257, -65537, -(2**32) - 1, -(2**64),
    0.0, -0.0, 1.0, 1.5, 65504.0, 65505.0, 100000.0, 1.1, -4.1, 3.4028234663852886e38, 1e300, 5.960464477539063e-08,
    1.401298464324817e-45, math.inf, -math.inf, math.nan,
    False, True, None,
    b"", b"\x01\x02\x03\x04", bytes(24), bytes(256),
    "", "a", "é", "水", "\U00010151", "x" * 24,
    [], [1, [2, 3]], list(range(25)), [None, -1, 0.5],
    {}, {"a": 1}, {1: -48, 4: b"k"}, {"b": 0, "aa": 1, "a": 2, 4: 3, 1: 4, "z": 5}, {"aaa": 0, "b" * 24: 1, "é": 2},
)  # fmt: skip

REFUSED: tuple[tuple[str, str], ...] = (
    ("nothing at all", ""),
    ("an integer that is not the shortest: 1 in 1 byte", "1801"),
    ("an integer that is not the shortest: 255 in 2 bytes", "1900ff"),
    ("an integer that is not the shortest: 1 in 8 bytes", "1b0000000000000001"),
    ("a negative integer that is not the shortest", "3800"),
    ("a length that is not the shortest", "580161"),
    ("an array length that is not the shortest", "980101"),
    ("a map length that is not the shortest", "b801616100"),
    ("1.0 in single precision", "fa3f800000"),
    ("1.0 in double precision", "fb3ff0000000000000"),
    ("another NaN", "f97e01"),
    ("NaN in double precision", "fb7ff8000000000000"),
    ("a byte string of indefinite length", "5f4101ff"),
    ("a text of indefinite length", "7f6161ff"),
    ("an array of indefinite length", "9f01ff"),
    ("a map of indefinite length", "bf616101ff"),
    ("a break without a begin", "ff"),
    ("a tag: epoch time", "c100"),
    ("a tag: big number", "c249010000000000000000"),
    ("a tag: shared value", "d81c80"),
    ("undefined", "f7"),
    ("an unassigned simple value", "e0"),
    ("a simple value in two bytes", "f8ff"),
    ("reserved additional information", "1c"),
    ("a key that stands twice", "a2616100616101"),
    ("keys out of order", "a2616200616101"),
    ("a longer key before a shorter one", "a262616100616201"),
    ("a text key before an integer key", "a26161000100"),
    ("a byte string as key", "a1416100"),
    ("a negative integer as key", "a12000"),
    ("24 as key", "a1181800"),
    ("an array as key", "a18000"),
    ("a float as key", "a1f93c0000"),
    ("text that is not UTF-8", "61ff"),
    ("text with a surrogate", "63eda080"),
    ("a second item behind the first", "0000"),
    ("a byte string cut short", "4401"),
    ("an array cut short", "8201"),
    ("a map without its last value", "a16161"),
    ("an integer cut short", "19ff"),
    ("an array that claims 2^64 - 1 members", "9bffffffffffffffff"),
    ("a byte string that claims 2^64 - 1 bytes", "5bffffffffffffffff"),
    ("17 arrays within each other", "81" * 16 + "80"),
    ("an integer within 16 arrays", "81" * 16 + "00"),
)


def make() -> VectorFile:
    """Make the file."""
    nested: Any = []
    for _ in range(15):
        nested = [nested]
    cases = [_case(value) for value in (*VALUES, nested)]
    refusals = [Refused(name, "reader", "malformed-message", {"cbor": bytes.fromhex(text)}) for name, text in REFUSED]
    purpose = "Values in the diagnostic notation of RFC 8949 section 8, each with its one encoding; then bytes refused."
    return VectorFile(purpose, "1 Conventions", cases, refusals)


def _case(value: Any) -> Case:
    return Case(diagnostic(value)[:60], {"diagnostic": diagnostic(value), "cbor": encode(value)})


def diagnostic(value: Any) -> str:
    """Return a value in diagnostic notation; map members in the order they came."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        words = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return "NaN" if math.isnan(value) else words.get(value, repr(value))
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    if isinstance(value, list):
        return f"[{', '.join(map(diagnostic, value))}]"
    if isinstance(value, dict):
        members = {key: value[key] for key in decode(encode(value), what="map")}
        return f"{{{', '.join(f'{diagnostic(key)}: {diagnostic(item)}' for key, item in members.items())}}}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _read(values: dict[str, Any]) -> None:
    value = decode(values["cbor"], what="vector")
    assert encode(value) == values["cbor"]
    assert diagnostic(value) == values["diagnostic"]


RECEIVERS: dict[str, Receiver] = {"reader": _read}
