"""The usual request, accepted by one statement: the next number, within the allowance, in the epoch of the row.

The statement changes nothing unless all of that still holds of the row it then locks; who loses a race, or asks
for anything unusual, goes the long way in `sessions.exchanges`. The same statement confines the transaction to the
device's rows.
"""

from datetime import datetime
from functools import cache
from typing import Any

from django.db import connection

from devices.models import Device, DeviceState
from devices.prepared_statements import database_value, quoted, writing_cursor
from devices.row_security import CONFINING
from qflare_protocol.epochs import SessionLimits
from qflare_protocol.sealed_request import MessageNumber
from sessions.models import Session, SessionState

_STATEMENT = (
    "UPDATE {sessions} AS s "
    "SET highest_sequence = %s, requests = s.requests + 1, transfer_bytes = s.transfer_bytes + %s "
    "FROM {devices} AS d WHERE d.id = s.device_id "
    # As in `sessions.session_lookup`: whatever the tables hold when this is planned, by the primary keys.
    "AND s.id = %s AND (s.state = %s AND s.expires_at > %s AND d.state = %s) IS TRUE "
    # What the request was opened with: where it stands, the chain in memory is the row's still.
    "AND s.generation = %s AND s.epoch = %s AND s.first_epoch = %s "
    # A number above the highest was never used: there is no earlier answer to look for.
    "AND s.highest_sequence < %s AND s.requests < %s AND s.transfer_bytes <= %s "
    "RETURNING {confining}"
)


def take_number(session: Session, number: MessageNumber, length: int, *, limits: SessionLimits, now: datetime) -> bool:
    """Take a request's number where nothing is unusual about it, inside the caller's transaction; say whether it is.

    Its session is the row as it was read when the request was opened; its chain has nothing to move or forget.
    """
    if number.epoch - session.first_epoch + 1 > limits.epochs:
        return False
    moment = database_value(Session._meta.get_field("expires_at"), now)
    key = database_value(Session._meta.pk, session.pk)
    values: list[Any] = [
        number.sequence, length, key, SessionState.ACTIVE.value, moment, DeviceState.ACTIVE.value,
        session.generation, session.epoch, session.first_epoch,
        number.sequence, limits.requests, limits.transfer_bytes - length,
    ]  # fmt: skip
    with writing_cursor() as cursor:
        cursor.execute(_statement(), values)
        return cursor.fetchone() is not None


@cache
def _statement() -> str:
    tables = {"sessions": quoted(Session._meta.db_table), "devices": quoted(Device._meta.db_table)}
    confining = CONFINING.format(device="d.id") if connection.vendor == "postgresql" else "1"
    return _STATEMENT.format(confining=confining, **tables)
