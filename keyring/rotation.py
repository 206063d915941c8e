"""Replacing the KEK while the site runs: new KEK, new data keys under it, every value wrapped again, the old destroyed.

Each step is committed by itself and finds out from the database what is left to do, so a rotation that
was killed anywhere is continued by running it again. Processes need no restart: they ask for the
current data key at every wrapping, and open the old ones until no value stands under them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from keyring.columns import Scope, WrappedColumn, wrapped_columns
from keyring.data_keys import create_data_key, forget_retired_keys
from keyring.envelope import EnvelopeError, unwrap, wrap
from keyring.kek import Kek, KekError, find_kek, get_kek, provider_named
from keyring.models import DataKey, KekRotation


class RotationError(Exception):
    """A rotation cannot begin or go on; the sentence says what to do."""


@dataclass
class Rewrapped:
    """What one pass over all columns did."""

    values: int = 0
    unreadable: list[str] = field(default_factory=list)


def unfinished_rotation() -> KekRotation | None:
    """Return the rotation that was begun and not finished, if there is one."""
    return KekRotation.objects.filter(finished_at=None).first()


def begin_rotation(provider: str, *, now: datetime) -> KekRotation:
    """Make a KEK in a provider and remember which ones it replaces; an unfinished rotation is returned instead.

    A current KEK under which no data key stands yet is taken as it is: `create_kek` made it, or a
    rotation that was killed right here. Raises `RotationError`, `KekError`.
    """
    unfinished = unfinished_rotation()
    if unfinished is not None:
        if unfinished.provider != provider:
            raise RotationError(f"A rotation to {unfinished.provider} is unfinished; run it to its end first.")
        return unfinished
    replaced = [(name, kek_id.hex()) for name, kek_id in _keks_in_use()]
    kek = _fresh_kek(provider)
    try:
        with transaction.atomic():
            return KekRotation.objects.create(provider=provider, kek_id=kek.id, replaced=replaced, started_at=now)
    except IntegrityError as error:
        raise RotationError("Another process has begun a rotation this moment; let it finish.") from error


def switch_data_keys(rotation: KekRotation, *, now: datetime) -> int:
    """Give every scope a current data key under the new KEK; return how many were made."""
    kek = get_kek(rotation.provider, bytes(rotation.kek_id))
    made = sum(_switch_data_key(rotation, Scope(scope), kek, now) for scope in Scope)
    forget_retired_keys()
    return made


def rewrap_values(on_value: Callable[[WrappedColumn], None] = lambda column: None) -> Rewrapped:
    """Wrap every value that stands under a retired data key under its scope's current one, row by row.

    Values that do not open are left as they are and named in the result.
    """
    done = Rewrapped()
    current = {row.scope: row.id for row in DataKey.objects.filter(retired_at=None)}
    for column in wrapped_columns():
        for primary_key in column.keys_not_under(current[column.scope]):
            try:
                if _rewrap_value(column, primary_key):
                    done.values += 1
                    on_value(column)
            except EnvelopeError as error:
                done.unreadable.append(str(error))
    return done


def destroy_retired_keys(rotation: KekRotation) -> list[DataKey]:
    """Delete the retired data keys of the replaced KEKs that no value names; return those that had to stay."""
    replaced = _replaced(rotation)
    stay = []
    for row in DataKey.objects.exclude(retired_at=None):
        if (row.kek_provider, bytes(row.kek_id)) in replaced and not _destroy_unless_named(row):
            stay.append(row)
    return stay


def destroy_replaced_keks(rotation: KekRotation) -> None:
    """Destroy the replaced KEKs. Raises `RotationError` while a data key stands under one of them."""
    for provider, kek_id in _replaced(rotation):
        if DataKey.objects.filter(kek_provider=provider, kek_id=kek_id).exists():
            raise RotationError(f"Data keys still stand under the KEK {kek_id.hex()}; it is kept.")
        provider_named(provider).destroy(kek_id)


def finish_rotation(rotation: KekRotation, *, now: datetime) -> dict[str, str] | None:
    """Close the rotation inside the caller's transaction; return the payload of its event `kek.rotated`.

    Returns None when another process has closed it.
    """
    if not KekRotation.objects.filter(id=rotation.id, finished_at=None).update(finished_at=now):
        return None
    replaced = ", ".join(f"{kek_id.hex()} ({provider})" for provider, kek_id in _replaced(rotation))
    return {"provider": rotation.provider, "kek_id": bytes(rotation.kek_id).hex(), "replaced": replaced or "none"}


def _keks_in_use() -> list[tuple[str, bytes]]:
    """Return the KEKs of the current data keys. Raises `RotationError` when one is not here.

    A lost KEK is a matter for the escrow: a rotation would retire what it can no longer read.
    """
    rows = DataKey.objects.filter(retired_at=None).order_by("kek_provider", "kek_id")
    keks = [(provider, bytes(kek_id)) for provider, kek_id in rows.values_list("kek_provider", "kek_id").distinct()]
    for provider, kek_id in keks:
        if find_kek(provider, kek_id) is None:
            raise RotationError(f"The KEK {kek_id.hex()} ({provider}) is lost; restore it, or recover from escrow.")
    return keks


def _fresh_kek(provider: str) -> Kek:
    keks = provider_named(provider).keks()
    if keks and not DataKey.objects.filter(kek_provider=provider, kek_id=keks[-1].id).exists():
        return keks[-1]
    return provider_named(provider).create()


def _switch_data_key(rotation: KekRotation, scope: Scope, kek: Kek, now: datetime) -> bool:
    with transaction.atomic():
        current = DataKey.objects.select_for_update(no_key=True).filter(scope=scope, retired_at=None).first()
        if current is not None:
            if (current.kek_provider, bytes(current.kek_id)) == (rotation.provider, kek.id):
                return False
            DataKey.objects.filter(id=current.id).update(retired_at=now)
        if create_data_key(scope, (rotation.provider, kek), now) is None:
            raise KekError(f"A data key for {scope.label} was made at the same moment; run this again.")
    return True


def _rewrap_value(column: WrappedColumn, primary_key: Any) -> bool:
    """Wrap one value again in a transaction of its own; its row may have changed or gone since it was listed."""
    with transaction.atomic():
        rows = column.model._base_manager.select_for_update(of=("self",)).filter(pk=primary_key)
        row = rows.first()
        value = getattr(row, column.column, None)
        if row is None or value is None:
            return False
        place = {"table": column.table, "primary_key": column.bound_to(row), "column": column.column}
        rewrapped = wrap(unwrap(bytes(value), **place), **place)
        column.model._base_manager.filter(pk=primary_key).update(**{column.column: rewrapped})
    return True


def _destroy_unless_named(row: DataKey) -> bool:
    """Delete a data key that no value names. The lock waits for the transactions that have just wrapped under it."""
    with transaction.atomic():
        locked = DataKey.objects.select_for_update().filter(id=row.id).first()
        if locked is None:
            return True
        if any(column.count_under(row.id) for column in wrapped_columns() if column.scope == row.scope):
            return False
        locked.delete()
    return True


def _replaced(rotation: KekRotation) -> list[tuple[str, bytes]]:
    return [(provider, bytes.fromhex(kek_id)) for provider, kek_id in rotation.replaced]
