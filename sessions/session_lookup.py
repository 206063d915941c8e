"""The lookup with which every sealed request begins: its session and device by one prepared statement."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from devices.models import Device, DeviceState
from devices.prepared_statements import Converter, converted, converters, database_value, prepared_cursor, quoted
from sessions.models import Session, SessionState

_Row = TypeVar("_Row", bound=Model)

# A connection keeps the plan of its first uses, when the tables may still be empty and no statistics tell one index
# from another. As one condition, state and time are no way to look for rows: the primary keys are the only one.
_STATEMENT = (
    "SELECT {columns} FROM {sessions} s JOIN {devices} d ON d.id = s.device_id "
    "WHERE s.id = %s AND (s.state = %s AND s.expires_at > %s AND d.state = %s) IS TRUE"
)


def live_session(session_id: uuid.UUID, now: datetime) -> Session | None:
    """Return what `Session.objects.live(now)` has under that id, its device read along; None where it has nothing."""
    moment = database_value(Session._meta.get_field("expires_at"), now)
    key = database_value(Session._meta.pk, session_id)
    with prepared_cursor() as cursor:
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
    columns = [f"s.{quoted(field.column)}" for field in Session._meta.concrete_fields]
    columns += [f"d.{quoted(field.column)}" for field in Device._meta.concrete_fields]
    tables = {"sessions": quoted(Session._meta.db_table), "devices": quoted(Device._meta.db_table)}
    return _STATEMENT.format(columns=", ".join(columns), **tables)


def _from_row(model: type[_Row], row: Sequence[Any]) -> _Row:
    names, of_columns = _columns(model)
    return model.from_db(DEFAULT_DB_ALIAS, names, converted(row, of_columns))


@cache
def _columns(model: type[Model]) -> tuple[list[str], list[Converter | None]]:
    fields = model._meta.concrete_fields
    return [field.attname for field in fields], converters(fields)
