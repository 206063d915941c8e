"""Triggers by which the database itself refuses to change the log.

They stop every client of the database that does not own the tables, and every mistake of ours; an
owner of the database can remove them, which is why the log is also hashed, signed and witnessed.

Entries, tiles and checkpoints are only ever inserted. An event may be changed in two ways: the sequencer
marks it, once, and an erasure empties it whole, once (`audit.services.erase_disclosures`).
"""

from collections.abc import Callable, Iterator

from django.db.backends.base.schema import BaseDatabaseSchemaEditor

EVENTS = "audit_event"
TABLES = ("audit_entry", "audit_tile", "audit_checkpoint", "audit_witnesscosignature")
_SENTENCE = "the audit log is append-only"
_EVENT_SENTENCE = "an event of the audit log is only ever marked as sequenced or erased whole"
_KEPT_BY_ERASURE = ("id", "event_id", "occurred_at", "kind", "commitment", "sequenced")
_KEPT_BY_SEQUENCING = (
    "id", "event_id", "occurred_at", "kind", "commitment", "actor", "payload", "payload_bytes", "salt", "erased_at",
)  # fmt: skip


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
    yield (
        f"CREATE TRIGGER {EVENTS}_append_only BEFORE DELETE OR TRUNCATE ON {EVENTS} "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()"
    )
    yield _EVENT_FUNCTION
    yield (
        f"CREATE TRIGGER {EVENTS}_marked_or_erased BEFORE UPDATE ON {EVENTS} "
        "FOR EACH ROW EXECUTE FUNCTION audit_refuse_other_change()"
    )


# The whole row is compared with what it may become, so that a column added later is covered unasked.
_EVENT_FUNCTION = f"""
CREATE OR REPLACE FUNCTION audit_refuse_other_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE allowed {EVENTS} := OLD;
BEGIN
    IF NOT OLD.sequenced THEN
        allowed.sequenced := true;
    ELSIF OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL THEN
        allowed.actor := 'erased';
        allowed.payload := '{{}}';
        allowed.payload_bytes := '';
        allowed.salt := '';
        allowed.erased_at := NEW.erased_at;
    END IF;
    IF allowed IS DISTINCT FROM NEW OR allowed IS NOT DISTINCT FROM OLD THEN
        RAISE EXCEPTION '{_EVENT_SENTENCE}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$"""


def _drop_on_postgresql() -> Iterator[str]:
    for table in (*TABLES, EVENTS):
        yield f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}"
    yield f"DROP TRIGGER IF EXISTS {EVENTS}_marked_or_erased ON {EVENTS}"
    yield "DROP FUNCTION IF EXISTS audit_refuse_change()"
    yield "DROP FUNCTION IF EXISTS audit_refuse_other_change()"


def _create_on_sqlite() -> Iterator[str]:
    for table, verb in _REFUSED_ON_SQLITE:
        yield (
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{_SENTENCE}'); END"
        )
    marked = f"NOT OLD.sequenced AND NEW.sequenced AND {_unchanged(_KEPT_BY_SEQUENCING)}"
    erased = (
        f"OLD.sequenced AND OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL AND {_unchanged(_KEPT_BY_ERASURE)} "
        "AND NEW.actor = 'erased' AND NEW.payload = '{}' AND NEW.payload_bytes = X'' AND NEW.salt = X''"
    )
    yield (
        f"CREATE TRIGGER {EVENTS}_marked_or_erased BEFORE UPDATE ON {EVENTS} "
        f"WHEN (({marked}) OR ({erased})) IS NOT TRUE "
        f"BEGIN SELECT RAISE(ABORT, '{_EVENT_SENTENCE}'); END"
    )


def _unchanged(columns: tuple[str, ...]) -> str:
    return " AND ".join(f"NEW.{column} IS OLD.{column}" for column in columns)


def _drop_on_sqlite() -> Iterator[str]:
    for table, verb in _REFUSED_ON_SQLITE:
        yield f"DROP TRIGGER IF EXISTS {table}_no_{verb.lower()}"
    yield f"DROP TRIGGER IF EXISTS {EVENTS}_marked_or_erased"


_REFUSED_ON_SQLITE = (*((table, verb) for table in TABLES for verb in ("UPDATE", "DELETE")), (EVENTS, "DELETE"))
_Statements = dict[str, Callable[[], Iterator[str]]]
_CREATE: _Statements = {"postgresql": _create_on_postgresql, "sqlite": _create_on_sqlite}
_DROP: _Statements = {"postgresql": _drop_on_postgresql, "sqlite": _drop_on_sqlite}
