"""The database refuses to change the log."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from audit.triggers import create_triggers, drop_triggers


def forwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    create_triggers(editor)


def backwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    drop_triggers(editor)


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [migrations.RunPython(forwards, backwards)]
