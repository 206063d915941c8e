"""The strict reading of what the sealed process says: an update may have taken it over.

Whatever is out of form becomes `Refusal("enclave-failed")`, so that a round says why it failed and the
worker goes on to the next one.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qflare_protocol.chunked import KEY_BYTES
from qflare_protocol.errors import CATALOGUE, Refusal
from qflare_protocol.fields import short_text

_OUTPUT = re.compile("sealed-model|radius|(model|centre|momentum|second-moment|history/[0-9a-f]{32})(@[0-9]{1,2})?")
MAX_NAME = 100
MAX_DETAIL = 300  # with the title it has room in a round's end_reason


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def _is_key(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == KEY_BYTES


def _is_seconds(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value >= 0


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()


def _is_output(value: object) -> bool:
    return isinstance(value, str) and _OUTPUT.fullmatch(value) is not None


def _is_held(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(held, bool) for held in value.values())


_MEMBERS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "ready": {"measurement": _is_bytes, "protections": _is_held},
    "prepared": {"evidence": _is_bytes, "wrapped_keys": _is_bytes},
    "output": {"name": _is_output, "piece": _is_bytes},
    "model-key": {"key": _is_key},
    "step": {"name": _is_name, "seconds": _is_seconds},
    "aggregated": {"result": _is_bytes, "verdicts": _is_bytes},
    "said": {"what": _is_name, "message": _is_bytes},
}
"""The members of each kind of message, and what each has to be."""


def checked_message(message: Mapping[str, Any], expected: Sequence[str]) -> dict[str, Any]:
    """Return the message when it is of an expected kind and in form.

    Raises the refusal that it carries, or else `Refusal("enclave-failed")`.
    """
    kind = message.get("kind")
    if kind == "refused":
        raise _carried_refusal(message)
    if kind == "failed":
        where = short_text(message.get("where"), MAX_NAME, what="place of the failure", code="enclave-failed")
        raise Refusal("enclave-failed", f"The sealed process failed: {where}.")
    if kind not in expected:
        raise Refusal("enclave-failed", "The sealed process failed: unexpected message.")
    members = _MEMBERS[kind]
    if set(message) != {"kind", *members} or not all(fits(message[name]) for name, fits in members.items()):
        raise Refusal("enclave-failed", f"The sealed process failed: its message {kind} is not in form.")
    return dict(message)


def _carried_refusal(message: Mapping[str, Any]) -> Refusal:
    code, detail, extensions = (message.get(name) for name in ("code", "detail", "extensions"))
    if not isinstance(code, str) or not isinstance(detail, str) or not isinstance(extensions, dict):
        return Refusal("enclave-failed", "The sealed process failed: its refusal is not in form.")
    if not set(extensions) <= {"verdicts"} or not _are_verdicts(extensions.get("verdicts", [])):
        return Refusal("enclave-failed", "The sealed process failed: its verdicts are not in form.")
    printable = "".join(character if character.isprintable() else "?" for character in detail[:MAX_DETAIL])
    return Refusal(code if code in CATALOGUE else "enclave-failed", printable, **extensions)


def _are_verdicts(verdicts: object) -> bool:
    return isinstance(verdicts, list) and all(_is_verdict(verdict) for verdict in verdicts)


def _is_verdict(verdict: object) -> bool:
    if not isinstance(verdict, dict) or not isinstance(verdict.get("accepted"), bool):
        return False
    return verdict["accepted"] or (_is_name(verdict.get("reason")) and _is_device_id(verdict.get("device_id")))


def _is_device_id(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
