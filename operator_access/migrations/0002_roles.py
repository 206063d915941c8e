"""The four groups, with the permissions of `operator_access.roles`."""

from django.db import migrations

from operator_access.roles import set_up_roles


class Migration(migrations.Migration):
    dependencies = [
        ("operator_access", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("axes", "0010_accessattemptexpiration"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
        ("keyring", "0001_initial"),
        ("audit", "0001_initial"),
        ("devices", "0001_initial"),
        ("enrollment", "0001_initial"),
        ("device_sessions", "0001_initial"),
        ("enclave", "0001_initial"),
        ("training", "0001_initial"),
        ("monitor", "0001_initial"),
        ("operator_api", "0001_initial"),
        ("qflare_site", "0001_heartbeat"),
    ]

    operations = [migrations.RunPython(lambda apps, editor: set_up_roles(apps), migrations.RunPython.noop)]
