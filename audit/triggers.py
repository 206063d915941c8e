"""Triggers by which the database itself refuses to change the log.

They stop every client of the database that does not own the tables, and every mistake of ours; an
owner of the database can remove them, which is why the log is also hashed, signed and witnessed.
"""

from collections.abc import Callable, Iterator

from django.db.backends.base.schema import BaseDatabaseSchemaEditor

TABLES = ("audit_entry", "audit_tile", "audit_checkpoint")
_SENTENCE = "the audit log is append-only"


def create_triggers(editor: BaseDatabaseSchemaEditor) -> None:
    """Refuse UPDATE and DELETE on the tables of the log, and on PostgreSQL also TRUNCATE."""
    for statement in _CREATE[editor.connection.vendor]():
        editor.execute(statement)


def drop_triggers(editor: BaseDatabaseSchemaEditor) -> None:
    """Remove the triggers: to migrate backwards, and for tests that empty the tables."""
    for statement in _DROP[editor.connection.vendor]():
        editor.execute(statement)


def _create_on_postgresql() -> Iterator[str]:
    yield (
        "CREATE OR REPLACE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_SENTENCE}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    for table in TABLES:
        yield (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()"
        )


def _drop_on_postgresql() -> Iterator[str]:
    for table in TABLES:
        yield f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}"
    yield "DROP FUNCTION IF EXISTS audit_refuse_change()"


def _create_on_sqlite() -> Iterator[str]:
    for table in TABLES:
        for verb in ("UPDATE", "DELETE"):
            yield (
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{_SENTENCE}'); END"
            )


def _drop_on_sqlite() -> Iterator[str]:
    for table in TABLES:
        for verb in ("update", "delete"):
            yield f"DROP TRIGGER IF EXISTS {table}_no_{verb}"


_Statements = dict[str, Callable[[], Iterator[str]]]
_CREATE: _Statements = {"postgresql": _create_on_postgresql, "sqlite": _create_on_sqlite}
_DROP: _Statements = {"postgresql": _drop_on_postgresql, "sqlite": _drop_on_sqlite}
