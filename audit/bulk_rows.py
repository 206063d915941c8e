"""Many rows in few statements: PostgreSQL takes them by COPY and arrays, other databases by Django's own means.

Building and parsing an INSERT of 10,000 rows costs the object mapper and a driver in Python more than all
the hashes of the log; everything else of the log goes through the object mapper.
"""

from collections.abc import Sequence
from typing import Any

from django.db import connection
from django.db.models import JSONField, Model
from psycopg.types.json import Jsonb

_ROWS_OF_ONE_STATEMENT = 2000


def insert_rows(model: type[Model], fields: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows whose members are in the order of `fields`, in the caller's transaction.

    Raises `IntegrityError` as an INSERT would.
    """
    if connection.vendor != "postgresql":
        made = [model(**dict(zip(fields, row, strict=True))) for row in rows]
        model._default_manager.bulk_create(made, batch_size=_ROWS_OF_ONE_STATEMENT)
        return
    quote = connection.ops.quote_name
    columns = ", ".join(quote(model._meta.get_field(name).column) for name in fields)
    of_json = [place for place, name in enumerate(fields) if isinstance(model._meta.get_field(name), JSONField)]
    statement = f"COPY {quote(model._meta.db_table)} ({columns}) FROM STDIN"
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row([Jsonb(value) if place in of_json else value for place, value in enumerate(row)])


def set_true(model: type[Model], field: str, keys: Sequence[int]) -> None:
    """Set a boolean of the rows with these primary keys, in the caller's transaction."""
    if connection.vendor != "postgresql":
        for start in range(0, len(keys), _ROWS_OF_ONE_STATEMENT):
            some = keys[start : start + _ROWS_OF_ONE_STATEMENT]
            model._default_manager.filter(pk__in=some).update(**{field: True})
        return
    quote, meta = connection.ops.quote_name, model._meta
    table, key = quote(meta.db_table), quote(meta.pk.column)
    statement = f"UPDATE {table} SET {quote(meta.get_field(field).column)} = true WHERE {key} = ANY(%s)"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(keys)])
