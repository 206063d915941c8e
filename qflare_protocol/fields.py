"""Checks of decoded map members: exact keys, exact types, exact lengths.

CBOR and JSON carry types that Python blurs (`True` is an `int`), so every member of a signed or
stored structure passes through one of these before it is used.
"""

from collections.abc import Mapping
from typing import Any

from qflare_protocol.errors import Refusal


def exact_map(value: object, keys: frozenset[str], *, what: str, code: str = "malformed-message") -> Mapping[str, Any]:
    """Return the map when it has exactly these keys. Raises `Refusal(code)`."""
    if not isinstance(value, dict) or set(value) != keys:
        members = ", ".join(sorted(keys)) or "none"
        raise Refusal(code, f"The {what} must be a map with exactly these members: {members}.")
    return value


def exact_bytes(value: object, length: int, *, what: str, code: str = "malformed-message") -> bytes:
    """Return the byte string when it has that length. Raises `Refusal(code)`."""
    if not isinstance(value, bytes) or len(value) != length:
        raise Refusal(code, f"The {what} must be {length} bytes.")
    return value


def whole_number(value: object, low: int, high: int, *, what: str, code: str = "malformed-message") -> int:
    """Return the value when it is a true integer (no boolean, no float) within the bounds. Raises `Refusal(code)`."""
    if type(value) is not int or not low <= value <= high:
        raise Refusal(code, f"The {what} must be a whole number between {low} and {high}.")
    return value


def finite_number(value: object, low: float, high: float, *, what: str, code: str = "malformed-message") -> float:
    """Return the value as float when it is a number within the bounds, which are finite. Raises `Refusal(code)`."""
    if type(value) not in (int, float) or not isinstance(value, int | float):
        raise Refusal(code, f"The {what} must be a number.")
    if not low <= value <= high:  # false for a NaN too, and exact for an integer that no float holds
        raise Refusal(code, f"The {what} must be between {low:g} and {high:g}.")
    return float(value)


def short_text(value: object, maximum: int, *, what: str, code: str = "malformed-message") -> str:
    """Return printable text of 1 to `maximum` characters. Raises `Refusal(code)`."""
    if not isinstance(value, str) or not 1 <= len(value) <= maximum or not value.isprintable():
        raise Refusal(code, f"The {what} must be 1 to {maximum} printable characters.")
    return value


def require_map(value: object, keys: frozenset[str], what: str) -> Mapping[str, Any]:
    """Return `value` as a map with exactly these text keys. Raises `Refusal("malformed-message")`."""
    return exact_map(value, keys, what=what)


def bytes_field(message: Mapping[str, Any], key: str, length: int | None = None, maximum: int = 1 << 20) -> bytes:
    """Return a byte string member of exactly `length` bytes, or else of at most `maximum`.

    Like the other readers of a member it raises `Refusal("malformed-message")` also where there is none.
    """
    value = message.get(key)
    if length is not None:
        return exact_bytes(value, length, what=f"field {key}")
    if not isinstance(value, bytes) or len(value) > maximum:
        raise Refusal("malformed-message", f"The field {key} must be a byte string of at most {maximum} bytes.")
    return value


def text_field(message: Mapping[str, Any], key: str, maximum: int = 200) -> str:
    """Return a text member of 1 to `maximum` characters."""
    return short_text(message.get(key), maximum, what=f"field {key}")


def unsigned_field(message: Mapping[str, Any], key: str, maximum: int = 2**63 - 1) -> int:
    """Return a whole-number member from 0 to `maximum`; booleans and floats are refused."""
    return whole_number(message.get(key), 0, maximum, what=f"field {key}")


def boolean_field(message: Mapping[str, Any], key: str) -> bool:
    """Return a true or false member. Raises `Refusal("malformed-message")` for anything else."""
    value = message.get(key)
    if not isinstance(value, bool):
        raise Refusal("malformed-message", f"The field {key} must be true or false.")
    return value
