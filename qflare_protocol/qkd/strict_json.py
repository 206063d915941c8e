"""JSON objects from a peer (RFC 8259), read strictly: no member twice, no NaN, no blurred types."""

import json
from collections.abc import Mapping
from typing import Any

from qflare_protocol.qkd.errors import QkdUnavailable


def read_object(data: bytes, *, what: str, maximum_bytes: int) -> dict[str, Any]:
    """Return the object that is all of the data.

    Raises `QkdUnavailable` for data that is too long, is not UTF-8 JSON, is not an object, names a
    member twice, holds NaN or an infinity, or is nested too deeply for the parser.
    """
    if len(data) > maximum_bytes:
        raise QkdUnavailable(f"The {what} is longer than {maximum_bytes} bytes.")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_members, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise malformed(what) from None  # the parser's error quotes the text, which may hold a key
    if not isinstance(value, dict):
        raise malformed(what)
    return value


def member(value: object, name: str, *, what: str) -> Any:
    """Return a member of what must be an object; others may stand beside it. Raises `QkdUnavailable`."""
    if not isinstance(value, dict) or name not in value:
        raise QkdUnavailable(f"The {what} has no member {name}.")
    return value[name]


def text_member(value: object, name: str, maximum: int, *, what: str) -> str:
    """Return a member that is text of 1 to `maximum` characters. Raises `QkdUnavailable`."""
    text = member(value, name, what=what)
    if not isinstance(text, str) or not 1 <= len(text) <= maximum:
        raise QkdUnavailable(f"The member {name} of the {what} must be text of 1 to {maximum} characters.")
    return text


def count_member(value: object, name: str, maximum: int, *, what: str) -> int:
    """Return a member that is a whole number from 0 to `maximum`. Raises `QkdUnavailable`."""
    count = member(value, name, what=what)
    if type(count) is not int or not 0 <= count <= maximum:
        raise QkdUnavailable(f"The member {name} of the {what} must be a whole number from 0 to {maximum}.")
    return count


def list_member(value: object, name: str, maximum: int, *, what: str) -> list[Any]:
    """Return a member that is a list of 1 to `maximum` items. Raises `QkdUnavailable`."""
    items = member(value, name, what=what)
    if not isinstance(items, list) or not 1 <= len(items) <= maximum:
        raise QkdUnavailable(f"The member {name} of the {what} must be a list of 1 to {maximum} items.")
    return items


def write_object(value: Mapping[str, Any]) -> bytes:
    """Return an object as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def malformed(what: str) -> QkdUnavailable:
    """Return the failure of data that is not what it should be, without a word of its content."""
    return QkdUnavailable(f"The {what} is not a well-formed JSON object.")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(name)
