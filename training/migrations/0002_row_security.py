"""A device's request sees its own rows alone (`devices.row_security`)."""

from django.db import migrations

from devices.row_security import row_policies

POLICIES = {
    "training_versionevaluation": "device_id",
    "training_participation": "device_id",
    "training_update": "(SELECT device_id FROM training_participation WHERE id = participation_id)",
    "training_upload": "(SELECT device_id FROM training_participation WHERE id = participation_id)",
}


class Migration(migrations.Migration):
    dependencies = [("training", "0001_initial")]

    operations = [row_policies(POLICIES)]
