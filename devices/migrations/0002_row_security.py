"""A device's request sees its own rows alone (`devices.row_security`)."""

from django.db import migrations

from devices.row_security import row_policies

POLICIES = {
    "devices_device": "id",
    "devices_devicekey": "device_id",
}


class Migration(migrations.Migration):
    dependencies = [("devices", "0001_initial")]

    operations = [row_policies(POLICIES)]
