"""The database refuses to change the log, and finds its rows by time."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from audit.triggers import create_triggers, drop_triggers


def forwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    create_triggers(editor)


def backwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    drop_triggers(editor)


# For the calendars of the admin, the console, and the retention of disclosures.
BY_TIME = {
    "audit_event": "occurred_at",
    "audit_entry": "occurred_at",
    "audit_checkpoint": "created_at",
    "audit_witnesssighting": "seen_at",
}


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [
        migrations.RunPython(forwards, backwards),
        *(
            migrations.RunSQL(f"CREATE INDEX {table}_by_time ON {table} ({column})", f"DROP INDEX {table}_by_time")
            for table, column in BY_TIME.items()
        ),
    ]
