"""Row-level security: a device's request sees and changes rows of its own device and of no other.

On PostgreSQL policies on every table that holds rows of one device compare them with the setting
`qflare.device_id` of the connection. Unset, as in workers, the admin and the handshake, they let every row
through; a device's request sets it: for its transaction (`confined_transaction`), and around what it does before
(`confined_to`). It stops a view that forgets to ask for the device.
It does not stop somebody who can send SQL of their own: a connection may change its settings.

On SQLite there are no policies, and both do nothing.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.apps.registry import Apps
from django.db import DatabaseError, OperationalError, connection, migrations, transaction
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

SETTING = "qflare.device_id"
DEVICE = f"(SELECT nullif(current_setting('{SETTING}', true), '')::uuid)"
"""The device that the connection is confined to; null where it is not. A subquery runs once for a statement."""

CONFINING = f"set_config('{SETTING}', {{device}}::text, true)"
"""What a statement of a `confined_transaction` may return to confine the rest of it: it saves one of its own."""

_confined: ContextVar[uuid.UUID | None] = ContextVar("confined_to", default=None)


@contextmanager
def confined_to(device_id: uuid.UUID) -> Iterator[None]:
    """Confine every statement of this connection to the rows of a device, in and out of transactions.

    The setting belongs to the connection and is taken back in any case; where that fails the connection is
    closed, so that no later request inherits it. Statements on another connection than the one that was
    confined raise `OperationalError`. Raises `RuntimeError` inside another confinement. A pooler that gives
    each transaction another connection breaks this: pool by session.
    """
    if _confined.get() is not None:
        raise RuntimeError("a request is one device's: it is confined already")
    if connection.vendor != "postgresql":
        yield
        return
    connection.ensure_connection()
    held, token = connection.connection, _confined.set(device_id)
    try:
        _set(str(device_id))
        with connection.execute_wrapper(_only_on(held)):
            yield
    finally:
        _confined.reset(token)
        _release(held)


@contextmanager
def confined_transaction() -> Iterator[Callable[[uuid.UUID], None]]:
    """Open a transaction that is to be confined, and give what does that where no statement returns `CONFINING`.

    The setting goes with the transaction, and with it what could be forgotten. Inside another transaction, as in a
    test, it is taken back after a success; a failure rolls it back.
    """
    nested = connection.in_atomic_block
    with transaction.atomic():
        yield _confine_transaction
    if nested and connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"RESET {SETTING}")


def _confine_transaction(device_id: uuid.UUID) -> None:
    if connection.vendor != "postgresql":
        return
    if not connection.in_atomic_block:
        raise RuntimeError("a setting of a transaction outside of one confines nothing")
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config(%s, %s, true)", [SETTING, str(device_id)])


def _only_on(held: Any) -> Callable[..., Any]:
    def execute(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if context["connection"].connection is not held:
            raise OperationalError("the connection was replaced within a device's request; its rows are not confined")
        return execute(sql, params, many, context)

    return execute


def _set(value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config(%s, %s, false)", [SETTING, value])


def _release(held: Any) -> None:
    if connection.connection is not held:
        return  # it is closed, and its setting with it
    try:
        _set("")
    except DatabaseError:
        if connection.in_atomic_block:
            # A transaction around the request has failed. It was set within it, and goes with it.
            connection.set_rollback(True)
        else:
            connection.close()


def create_policy(editor: BaseDatabaseSchemaEditor, table: str, device: str) -> None:
    """Confine a table's rows by the SQL expression for the device of a row; nothing where there are no policies.

    FORCE binds the owner of the table too; a superuser and a role with BYPASSRLS are bound by nothing.
    """
    if editor.connection.vendor != "postgresql":
        return
    editor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    editor.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    # Not an OR: the planner takes that for a filter few rows pass, and reads whole tables where a list is in order.
    of_the_device = f"CASE WHEN {DEVICE} IS NULL THEN true ELSE {device} = {DEVICE} END"
    editor.execute(f"CREATE POLICY rows_of_the_device ON {table} USING ({of_the_device})")


def drop_policy(editor: BaseDatabaseSchemaEditor, table: str) -> None:
    """Let every row of a table be seen again."""
    if editor.connection.vendor != "postgresql":
        return
    editor.execute(f"DROP POLICY rows_of_the_device ON {table}")
    editor.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    editor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


def row_policies(policies: Mapping[str, str]) -> migrations.RunPython:
    """Return the migration's operation that confines tables, given with the SQL expression for the device of a row."""

    def forwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        for table, device in policies.items():
            create_policy(editor, table, device)

    def backwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        for table in policies:
            drop_policy(editor, table)

    return migrations.RunPython(forwards, backwards)
