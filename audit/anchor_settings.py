"""The form of `QFLARE_ANCHORS`, checked when the environment is read, before there is any app."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

KINDS: dict[str, tuple[str, ...]] = {
    "file": ("path",),
    "witness": ("url", "key"),
    "rfc3161": ("url", "roots"),
    "evm": ("url", "account"),
}
"""What each kind of anchor has to be told."""

LEAST_SECONDS = 60


def parse_anchors(text: str) -> list[dict[str, Any]]:
    """Return the anchors of a JSON list; of empty text none. Raises `ValueError` in words."""
    if not text.strip():
        return []
    try:
        stated = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(stated, list):
        raise ValueError("it has to be a JSON list of anchors")
    return checked_anchors(stated)


def checked_anchors(stated: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the anchors when each is in form and no two share a name. Raises `ValueError` in words."""
    anchors = [_checked(members) for members in stated]
    names = [members["name"] for members in anchors]
    if len(set(names)) < len(names):
        raise ValueError("two anchors have the same name")
    return anchors


def _checked(members: Any) -> dict[str, Any]:
    if not isinstance(members, Mapping) or not re.fullmatch(r"[a-z0-9-]{1,60}", str(members.get("name", ""))):
        raise ValueError("an anchor is an object with a name of 1 to 60 lower-case letters, digits or dashes")
    name, kind = members["name"], members.get("kind")
    if kind not in KINDS:
        raise ValueError(f"the anchor {name} is of no kind there is: {', '.join(KINDS)}")
    wanted, seconds = {"name", "kind", *KINDS[kind]}, members.get("every_seconds", 3600)
    if set(members) - {"every_seconds"} != wanted or not all(isinstance(members[key], str) for key in wanted):
        raise ValueError(f"the anchor {name} of the kind {kind} needs exactly these texts: {', '.join(sorted(wanted))}")
    if type(seconds) is not int or not LEAST_SECONDS <= seconds <= 30 * 86_400:
        raise ValueError(f"every_seconds of the anchor {name} is a whole number from {LEAST_SECONDS} to 2592000")
    return {**members, "every_seconds": seconds}
