"""Data keys: made on first use, opened once per process, dropped when they are retired.

A KEK wraps data keys and data keys encrypt values, so an HSM is asked once per process and data key
and not per request. Opened keys are kept in the memory of the process alone. Once a minute, at its next
use, a process asks the database which keys are still current and drops the others; until a rotation
has ended it opens those again where it meets values under them.
"""

import secrets
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from keyring.announcements import KeyMade, announce_made_key
from keyring.columns import Scope
from keyring.kek import KEK_BYTES, Kek, KekError, configured_provider, get_kek, provider_named
from keyring.models import DataKey
from qflare_protocol.encoding import frame, label

REVIEW_SECONDS = 60
DATA_KEY_BYTES = KEK_BYTES

# Asked each time a value is wrapped: written out, it costs a fifth of what the object mapper takes to compile it.
_CURRENT = "SELECT * FROM keyring_datakey WHERE scope = %s AND retired_at IS NULL"
# The lock that a foreign key to the row would take: until this transaction ends, the key cannot be deleted.
_HELD = " FOR KEY SHARE"


class UnknownDataKey(LookupError):
    """There is no data key of this id, any more or at all."""


@dataclass(frozen=True)
class OpenDataKey:
    """A data key as the memory of a process holds it."""

    id: uuid.UUID
    key: bytes = field(repr=False)


class _OpenKeys:
    """The data keys that this process has opened."""

    def __init__(self) -> None:
        self._keys: dict[uuid.UUID, OpenDataKey] = {}
        self._reviewed_at = 0.0

    def get(self, row_id: uuid.UUID) -> OpenDataKey | None:
        if time.monotonic() - self._reviewed_at > REVIEW_SECONDS:
            self.review()
        return self._keys.get(row_id)

    def add(self, opened: OpenDataKey) -> None:
        self._keys[opened.id] = opened

    def review(self) -> None:
        current = set(DataKey.objects.filter(retired_at=None).values_list("id", flat=True))
        self._keys = {row_id: key for row_id, key in self._keys.items() if row_id in current}
        self._reviewed_at = time.monotonic()


_OPEN_KEYS = _OpenKeys()


def current_data_key(scope: Scope) -> OpenDataKey:
    """Return the data key that encrypts new values of a scope, made on first use.

    The database is asked each time, so that a key that was retired a moment ago is not used again. On
    PostgreSQL the row stays until the caller's transaction ends; on SQLite transactions take turns.
    Raises `KekError`.
    """
    row = _current_row(scope) or _create_first_key(scope) or _current_row(scope)
    if row is None:
        raise KekError(f"The data key for {scope.label} was retired while it was made; try again.")
    return _opened(row)


def data_key(row_id: uuid.UUID) -> OpenDataKey:
    """Return the data key that a value names. Raises `UnknownDataKey`, `KekError`."""
    opened = _OPEN_KEYS.get(row_id)
    if opened is not None:
        return opened
    row = DataKey.objects.filter(id=row_id).first()
    if row is None:
        raise UnknownDataKey(str(row_id))
    return _opened(row)


def create_data_key(scope: Scope, kek: tuple[str, Kek], now: datetime | None = None) -> DataKey | None:
    """Make the current data key of a scope under a KEK (provider, key), or return None where there is one.

    The constraint settles it between processes. Raises `KekError`.
    """
    provider, key = kek
    row = DataKey(scope=scope, kek_provider=provider, kek_id=key.id, created_at=now or timezone.now())
    row.wrapped_key = key.wrap(secrets.token_bytes(DATA_KEY_BYTES), data_key_aad(row))
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return None
    return row


def open_data_key(row: DataKey) -> bytes:
    """Unwrap a data key with its KEK. Raises `KekDoesNotOpen`, `KekMissing`, `KekError`."""
    return get_kek(row.kek_provider, bytes(row.kek_id)).unwrap(bytes(row.wrapped_key), data_key_aad(row))


def data_key_aad(row: DataKey) -> bytes:
    """Return what a data key's wrapping is bound to: table, row, column, scope and KEK."""
    place = (DataKey._meta.db_table.encode(), str(row.id).encode(), b"wrapped_key")
    return frame(label("data key"), *place, row.scope.encode(), row.kek_provider.encode(), bytes(row.kek_id))


def forget_retired_keys() -> None:
    """Drop what this process holds of data keys that are not current any more."""
    _OPEN_KEYS.review()


def _opened(row: DataKey) -> OpenDataKey:
    opened = _OPEN_KEYS.get(row.id)
    if opened is None:
        opened = OpenDataKey(row.id, open_data_key(row))
        _OPEN_KEYS.add(opened)
    return opened


def _current_row(scope: Scope) -> DataKey | None:
    held = _HELD if connection.vendor == "postgresql" and connection.in_atomic_block else ""
    return next(iter(DataKey.objects.raw(_CURRENT + held, [scope.value])), None)


@transaction.atomic
def _create_first_key(scope: Scope) -> DataKey | None:
    """Make a scope's first data key and announce_made_key it, or return None where another process was faster."""
    row = create_data_key(scope, _kek_for_new_keys())
    if row is not None:
        known_as = f"under KEK {bytes(row.kek_id).hex()} ({row.kek_provider})"
        announce_made_key(
            KeyMade(DataKey._meta.db_table, row.id, f"encryption at rest: {scope.label}", known_as, row.created_at)
        )
    return row


def _kek_for_new_keys() -> tuple[str, Kek]:
    """Return the configured provider's current KEK; the very first one of a site is made here if it is a file.

    A KEK that was lost is not replaced in passing: what it wrapped would be noticed as lost much later.
    """
    provider = configured_provider()
    keks = provider_named(provider).keks()
    if keks:
        return provider, keks[-1]
    if provider != "file":
        raise KekError("The token holds no KEK; make one with: manage.py create_kek")
    if DataKey.objects.filter(kek_provider=provider).exists():
        raise KekError("The KEK file is gone although data keys stand under it; restore it, or recover from escrow.")
    return provider, provider_named(provider).create()
