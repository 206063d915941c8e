"""A device's request sees its own rows alone (`devices.row_security`)."""

from django.db import migrations

from devices.row_security import row_policies

POLICIES = {
    "device_sessions_session": "device_id",
    "device_sessions_keyrotationattempt": "device_id",
    "device_sessions_reservedqkdkey": "device_id",
    # A lookup by primary key for each row: as a join or a set it would be built for every statement.
    "device_sessions_exchange": "(SELECT device_id FROM device_sessions_session WHERE id = session_id)",
}


class Migration(migrations.Migration):
    dependencies = [("device_sessions", "0001_initial")]

    operations = [row_policies(POLICIES)]
