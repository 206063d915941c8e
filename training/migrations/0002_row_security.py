"""A device's request sees its own rows alone (`devices.row_security`)."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from devices.row_security import create_policy, drop_policy

POLICIES = {
    "training_participation": "device_id",
    "training_update": "(SELECT device_id FROM training_participation WHERE id = participation_id)",
}


def forwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    for table, device in POLICIES.items():
        create_policy(editor, table, device)


def backwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    for table in POLICIES:
        drop_policy(editor, table)


class Migration(migrations.Migration):
    dependencies = [("training", "0001_initial")]

    operations = [migrations.RunPython(forwards, backwards)]
