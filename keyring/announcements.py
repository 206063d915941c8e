"""Whom the keyring tells of a key that it made on first use.

The log stands above the keyring and signs with a key of it, so the log asks to be told and is not called by name.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction


@dataclass(frozen=True)
class KeyMade:
    """A key that was made because it was needed: its table, row, what it is for and how it is known."""

    table: str
    id: uuid.UUID
    purpose: str
    name: str
    made_at: datetime


Listener = Callable[[KeyMade], None]

_LISTENERS: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call a listener in the transaction of every key that is made on first use from now on."""
    if listener not in _LISTENERS:
        _LISTENERS.append(listener)


def announce_made_key(made: KeyMade) -> None:
    """Tell all listeners of a key in the caller's transaction; what one of them raises undoes the key.

    Raises `RuntimeError` outside a transaction.
    """
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("a key is announced in the transaction that makes it")
    for listener in _LISTENERS:
        listener(made)
