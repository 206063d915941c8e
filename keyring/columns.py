"""The columns that hold wrapped values, and the scope of the data keys under which each stands.

An app registers its columns in `AppConfig.ready`. What is not registered cannot be wrapped, because a
rotation would not find it.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.models.functions import Substr

from keyring.wrapped_value import DATA_KEY_ID_BYTES, DATA_KEY_ID_START


class Scope(models.TextChoices):
    """What a data key protects. Only server keys are worth an escrow: what is in flight may be lost."""

    SERVER_KEYS = "server-keys", "server keys"
    SESSIONS = "sessions", "sessions"
    MODELS = "models", "models"


@dataclass(frozen=True)
class WrappedColumn:
    """A binary column whose values `keyring.envelope` wraps."""

    model: type[models.Model]
    column: str
    scope: Scope
    bound_to: Callable[[Any], str]

    @property
    def table(self) -> str:
        """The name of the table."""
        return str(self.model._meta.db_table)

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"

    def counts(self) -> dict[uuid.UUID, int]:
        """Return how many values stand under each data key."""
        rows = self._values().values("wrapping_key").annotate(count=models.Count("*")).order_by()
        return {uuid.UUID(bytes=bytes(row["wrapping_key"]).ljust(16, b"\0")): row["count"] for row in rows}

    def count_under(self, data_key: uuid.UUID) -> int:
        """Return how many values stand under one data key."""
        return self._values().filter(wrapping_key=data_key.bytes).count()

    def keys_not_under(self, data_key: uuid.UUID) -> Iterator[Any]:
        """Yield the primary keys of the rows whose value stands under any other data key, in their order.

        The rows are asked for in batches, each anew: a row that is changed meanwhile is met as it is then.
        """
        others = self._values().exclude(wrapping_key=data_key.bytes).order_by("pk").values_list("pk", flat=True)
        batch = list(others[:500])
        while batch:
            yield from batch
            batch = list(others.filter(pk__gt=batch[-1])[:500])

    def _values(self) -> models.QuerySet[Any]:
        """Return the rows that hold a value, with the id of its data key, read out of the value by the database."""
        data_key = Substr(self.column, DATA_KEY_ID_START + 1, DATA_KEY_ID_BYTES, output_field=models.BinaryField())
        rows = self.model._base_manager.exclude(**{self.column: None})
        return rows.annotate(wrapping_key=data_key)


_COLUMNS: dict[tuple[str, str], WrappedColumn] = {}
_ELSEWHERE: dict[tuple[str, str], str] = {}


def register_wrapped_column(
    model: type[models.Model],
    column: str,
    *,
    scope: Scope,
    bound_to: Callable[[Any], str] = lambda row: str(row.pk),
) -> None:
    """Make a column known to `wrap` and to rotations.

    `bound_to` gives what a row's value is bound to as its primary key, where that is not the row's own.
    Raises `ValueError` when the column is registered with another scope, `FieldDoesNotExist`.
    """
    model._meta.get_field(column)
    known = _COLUMNS.setdefault((model._meta.db_table, column), WrappedColumn(model, column, Scope(scope), bound_to))
    if known.scope != scope:
        raise ValueError(f"{known} is registered with the scope {known.scope} already")


def register_wrapped_elsewhere(model: type[models.Model], column: str, under: str) -> None:
    """State that a column's values are wrapped by something else than `keyring.envelope`, and by what."""
    model._meta.get_field(column)
    _ELSEWHERE[model._meta.db_table, column] = under


def wrapped_columns() -> list[WrappedColumn]:
    """Return the registered columns, by name."""
    return [_COLUMNS[key] for key in sorted(_COLUMNS)]


def wrapped_elsewhere() -> dict[tuple[str, str], str]:
    """Return (table, column) of the columns that something else wraps, and what does."""
    return dict(_ELSEWHERE)


def scope_of(table: str, column: str) -> Scope:
    """Return the scope of a column's data keys. Raises `LookupError` for a column that is not registered."""
    try:
        return _COLUMNS[table, column].scope
    except KeyError:
        raise LookupError(f"{table}.{column} is not registered as a wrapped column; see keyring.columns") from None
