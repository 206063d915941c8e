"""The lookup with which every sealed request begins: its session and device by one statement that is built once.

The object mapper takes four times as long to build and compile this query as the database takes to answer it.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Model

from devices.models import Device, DeviceState
from sessions.models import Session, SessionState

_Row = TypeVar("_Row", bound=Model)
Converter = Callable[[Any], Any]

_STATEMENT = (
    "SELECT {columns} FROM {sessions} s JOIN {devices} d ON d.id = s.device_id "
    "WHERE s.id = %s AND s.state = %s AND s.expires_at > %s AND d.state = %s"
)


def live_session(session_id: uuid.UUID, now: datetime) -> Session | None:
    """Return what `Session.objects.live(now)` has under that id, its device read along; None where it has nothing."""
    moment = Session._meta.get_field("expires_at").get_db_prep_value(now, connection)
    key = Session._meta.pk.get_db_prep_value(session_id, connection)
    with connection.cursor() as cursor:
        cursor.execute(_statement(), [key, SessionState.ACTIVE.value, moment, DeviceState.ACTIVE.value])
        row = cursor.fetchone()
    if row is None:
        return None
    of_session = len(Session._meta.concrete_fields)
    session = _from_row(Session, row[:of_session])
    session.device = _from_row(Device, row[of_session:])
    return session


@cache
def _statement() -> str:
    quote = connection.ops.quote_name
    columns = [f"s.{quote(field.column)}" for field in Session._meta.concrete_fields]
    columns += [f"d.{quote(field.column)}" for field in Device._meta.concrete_fields]
    tables = {"sessions": quote(Session._meta.db_table), "devices": quote(Device._meta.db_table)}
    return _STATEMENT.format(columns=", ".join(columns), **tables)


def _from_row(model: type[_Row], row: Sequence[Any]) -> _Row:
    values = [convert(value) for convert, value in zip(_converters(model), row, strict=True)]
    return model.from_db(connection.alias, [field.attname for field in model._meta.concrete_fields], values)


@cache
def _converters(model: type[Model]) -> list[Converter]:
    """Return what makes a field's value of each column's, as the database gives it."""
    return [_converter(field) for field in model._meta.concrete_fields]


def _converter(field: Any) -> Converter:
    column = field.get_col(field.model._meta.db_table)
    steps = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]

    def convert(value: Any) -> Any:
        for step in steps:
            value = step(value, column, connection)
        return value

    return convert
