"""A device's request sees its own rows alone (`devices.row_security`)."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from devices.row_security import create_policy, drop_policy

POLICIES = {
    "device_sessions_session": "device_id",
    "device_sessions_keyrotationattempt": "device_id",
    "device_sessions_reservedqkdkey": "device_id",
    # A lookup by primary key for each row: as a join or a set it would be built for every statement.
    "device_sessions_exchange": "(SELECT device_id FROM device_sessions_session WHERE id = session_id)",
}


def forwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    for table, device in POLICIES.items():
        create_policy(editor, table, device)


def backwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    for table in POLICIES:
        drop_policy(editor, table)


class Migration(migrations.Migration):
    dependencies = [("device_sessions", "0001_initial")]

    operations = [migrations.RunPython(forwards, backwards)]
