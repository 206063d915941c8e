"""The kinds of event there are, each with the sentence by which a person reads it.

An app registers its kinds in `AppConfig.ready`; a kind is a namespaced name such as `round.opened`.
"""

import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+")
_SENTENCES: dict[str, str] = {}


def register_kind(kind: str, sentence: str) -> None:
    """Make a kind known; `{member}` in the sentence stands for that member of the payload.

    Raises `ValueError` for a name that is not namespaced or is registered with another sentence.
    """
    if not _NAME.fullmatch(kind):
        raise ValueError(f"an event kind is a namespaced name such as round.opened, not {kind}")
    if _SENTENCES.setdefault(kind, sentence) != sentence:
        raise ValueError(f"the event kind {kind} is registered twice")


def registered_kinds() -> list[str]:
    """Return all known kinds in alphabetical order."""
    return sorted(_SENTENCES)


def kinds_naming(member: str) -> list[str]:
    """Return in alphabetical order the kinds whose sentence names that member of the payload."""
    return sorted(kind for kind, sentence in _SENTENCES.items() if f"{{{member}}}" in sentence)


def describe(kind: str, payload: Mapping[str, Any]) -> str:
    """Return the sentence for an event. Raises `KeyError` for an unknown kind or a missing member."""
    return _SENTENCES[kind].format_map(payload)
