"""Statements of the hot path, written out once: PostgreSQL keeps their plans, and no request builds them anew.

The object mapper takes several times as long to build and compile a query as the database takes to answer it,
and sends it with its values inside, so that it is parsed and planned each time. What every sealed request sends
is therefore written by hand, with tests that hold it to what the object mapper finds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.backends.utils import CursorWrapper

Converter = Callable[[Any], Any]
_POSTGRESQL = "postgresql"


@contextmanager
def prepared_cursor() -> Iterator[CursorWrapper]:
    """Give a cursor whose statements PostgreSQL prepares on the connection from their second use on.

    It is Django's in all else: in its transaction, seen by its execute wrappers, its errors Django's. Values are
    bound by the server, which has to find their types from the statement. Elsewhere it is Django's own cursor.
    """
    database = connections[DEFAULT_DB_ALIAS]
    if database.vendor != _POSTGRESQL:
        with database.cursor() as cursor:
            yield cursor
        return
    # What `cursor()` does, but for its cursor, which could not prepare.
    database.close_if_health_check_failed()
    database.ensure_connection()
    from django.db.backends.postgresql.base import ServerBindingCursor

    with database._prepare_cursor(ServerBindingCursor(database.connection)) as prepared:
        yield prepared


@contextmanager
def writing_cursor() -> Iterator[CursorWrapper]:
    """Give the same for a statement that changes rows: by this name the tests know the verbs that do."""
    with prepared_cursor() as cursor:
        yield cursor


def database_value(field: Any, value: Any) -> Any:
    """Return a field's value as the database takes it for a parameter."""
    return field.get_db_prep_value(value, connection)


def quoted(name: str) -> str:
    """Return a table's or column's name as a statement has it."""
    return str(connection.ops.quote_name(name))


def converters(fields: Sequence[Any]) -> list[Converter | None]:
    """Return what makes a field's value of each column's, None where the database gives it as it is."""
    return [_converter(field) for field in fields]


def converted(values: Sequence[Any], of_columns: Sequence[Converter | None]) -> list[Any]:
    """Return the values of fields for the values of a row."""
    return [convert(value) if convert else value for convert, value in zip(of_columns, values, strict=True)]


def _converter(field: Any) -> Converter | None:
    column = field.get_col(field.model._meta.db_table)
    steps = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]
    if not steps:
        return None

    def convert(value: Any) -> Any:
        for step in steps:
            value = step(value, column, connection)
        return value

    return convert
