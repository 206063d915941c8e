"""The rows of a site as text that any of its databases can take: read from one snapshot, written in one transaction."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.apps import apps
from django.core import serializers
from django.core.management.color import no_style
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Model

from qflare_site.backup.archive import BackupError

ROWS_OF_A_MEMBER = 2000
_MADE_BY_MIGRATIONS = {"contenttypes.contenttype", "auth.permission"}
_OF_THE_MOMENT = {
    "sessions.session", "qflare_site.processheartbeat", "axes.accessattempt", "axes.accessattemptexpiration",
    "device_sessions.exchange", "device_sessions.keyrotationattempt", "device_sessions.reservedqkdkey",
    "enrollment.enrolmentattempt",
}  # fmt: skip
"""Sign-ins, heartbeats, challenges and stored answers: restored, they could be replayed or mean nothing."""
_MUST_BE_EMPTY = ("audit.event", "devices.device", "training.federation", "auth.user", "keyring.serverkey")


class _ExactEncoder(DjangoJSONEncoder):
    """Django's encoder without its loss of microseconds, which the log commits to."""

    def default(self, o: Any) -> Any:
        return o.isoformat() if isinstance(o, datetime) else super().default(o)


def kept_models() -> list[type[Model]]:
    """Return the models whose rows a backup holds; what others name by a natural key stands before them."""
    left_out = _MADE_BY_MIGRATIONS | _OF_THE_MOMENT
    kept = [model for model in apps.get_models() if model._meta.label_lower not in left_out and model._meta.managed]
    return serializers.sort_dependencies([(None, kept)], allow_cycles=True)


@contextmanager
def snapshot() -> Iterator[None]:
    """See the database as it is at this moment, whatever others write meanwhile, and hold nobody up."""
    if connection.vendor == "postgresql":
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            applied_migrations()  # the moment is that of the first reading
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")  # Django's own would take SQLite's write lock
        try:
            applied_migrations()
            yield
        finally:
            cursor.execute("ROLLBACK")


def applied_migrations() -> list[str]:
    """Return the migrations of the database as "app.name"."""
    return sorted(f"{app}.{name}" for app, name in MigrationRecorder(connection).applied_migrations())


def rows_of(model: type[Model]) -> Iterator[bytes]:
    """Yield all rows of a model, so many at a time, as JSON lines."""
    rows = model._default_manager.order_by("pk").iterator(chunk_size=ROWS_OF_A_MEMBER)
    while some := list(itertools.islice(rows, ROWS_OF_A_MEMBER)):
        # In ASCII, because Django reads lines back with splitlines, which knows more ends of a line than "\n".
        text = serializers.serialize("jsonl", some, cls=_ExactEncoder, ensure_ascii=True, use_natural_foreign_keys=True)
        yield text.encode()


def is_empty() -> bool:
    """Return whether nobody has used this database yet."""
    return not any(apps.get_model(name)._default_manager.exists() for name in _MUST_BE_EMPTY)


def clear_rows_of_new_site() -> None:
    """Delete what a new site made by itself, such as its schedules and roles, inside the caller's transaction."""
    for model in kept_models():
        joins = [field.remote_field.through for field in model._meta.many_to_many]
        for table in [*joins, model]:
            rows = table._default_manager.all()
            if rows.exists():
                rows._raw_delete(rows.db)


def insert_rows(content: bytes) -> int:
    """Insert what `rows_of` yielded, inside the caller's transaction; return how many rows.

    Raises `BackupError` for rows that this site cannot read.
    """
    try:
        found = list(serializers.deserialize("jsonl", content.decode().split("\n")))
    except serializers.base.DeserializationError as error:
        raise BackupError(f"Rows of the backup cannot be read: {error}") from error
    for model, of_model in itertools.groupby(found, key=lambda one: type(one.object)):
        some = list(of_model)
        with _times_as_they_were(model):
            model._default_manager.bulk_create([one.object for one in some], batch_size=ROWS_OF_A_MEMBER)
        for one in some:
            for name, values in (one.m2m_data or {}).items():
                getattr(one.object, name).set(values)
    return len(found)


@contextmanager
def _times_as_they_were(model: type[Model]) -> Iterator[None]:
    """Keep Django from writing the present into fields that it fills with the time of a change."""
    flags = [(field, flag) for field in model._meta.concrete_fields for flag in ("auto_now", "auto_now_add")]
    set_flags = [(field, flag) for field, flag in flags if getattr(field, flag, False)]
    for field, flag in set_flags:
        setattr(field, flag, False)
    try:
        yield
    finally:
        for field, flag in set_flags:
            setattr(field, flag, True)


def check_rows(content: bytes) -> None:
    """Look whether a member is rows, without a database. Raises `BackupError`."""
    try:
        for line in content.decode().split("\n"):
            if line and set(json.loads(line)) < {"model", "fields"}:
                raise ValueError("a row names its model and fields")
    except (ValueError, TypeError) as error:
        raise BackupError(f"Rows of the backup cannot be read: {error}") from error


def reset_sequences() -> None:
    """Let every automatic key go on after the highest that was restored."""
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), kept_models()):
            cursor.execute(statement)


def to_json(content: dict[str, Any]) -> bytes:
    """Return a member of the archive that describes it."""
    return json.dumps(content, indent=1, sort_keys=True).encode()
