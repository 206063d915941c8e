"""Lets transactional tests empty the tables of the log, and tests damage its rows on purpose.

The triggers that make the log append-only stay on in every test. They are lifted only by this
module, by the owner of the test database, with DDL that no setting of the product can reach.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

from audit.triggers import create_triggers, drop_triggers


@contextmanager
def log_triggers_lifted() -> Iterator[None]:
    """Lift the triggers for the statements inside; they are back before anything else can commit."""
    with transaction.atomic():
        drop_triggers(connection.schema_editor())
        yield
        create_triggers(connection.schema_editor())


@pytest.fixture(scope="session", autouse=True)
def flush_empties_the_log_too() -> Iterator[None]:
    """Lift the triggers around the flush by which a transactional test leaves an empty database behind."""
    operations: Any = type(connection.ops)
    flush = operations.execute_sql_flush

    def flush_with_triggers_lifted(self: Any, statements: Sequence[str]) -> None:
        with log_triggers_lifted():
            flush(self, statements)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "execute_sql_flush", flush_with_triggers_lifted)
        yield
