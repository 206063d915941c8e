"""What each role may do: one table to read, and the groups that are made by it.

Four verbs, of which Django's permissions are the stored form:

- v, view: look at rows.
- i, issue: bring rows about (`has_issue_permission` of an admin).
- o, operate: ask a service to change a row (`has_operate_permission`); of the log's tables: verify the log.
- e, end: end something for good (`has_end_permission`): revoke a device, lift a lock-out.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from django.contrib.auth.management import create_permissions

VERBS = {"v": "view", "i": "add", "o": "change", "e": "delete"}


class Role(StrEnum):
    """The names of the groups."""

    VIEWER = "Viewer"
    OPERATOR = "Operator"
    SECURITY_OFFICER = "Security officer"
    AUDITOR = "Auditor"


MEANINGS: dict[Role, str] = {
    Role.VIEWER: "Sees the fleet and its training, and changes nothing.",
    Role.OPERATOR: "Runs the fleet: issues tokens, suspends devices, runs federations and rounds, works on incidents.",
    Role.SECURITY_OFFICER: "Revokes devices; sets QKD and monitor policies; manages API keys and who has access.",
    Role.AUDITOR: "Reads everything, the log, access and incidents too, verifies the log, and changes nothing.",
}

TABLE: dict[str, tuple[str, str, str, str]] = {
    # model: viewer, operator, security officer, auditor
    "devices.device": ("v", "vo", "voe", "v"),
    "devices.devicekey": ("v", "v", "v", "v"),
    "enrollment.enrolmenttoken": ("", "vio", "vio", "v"),
    "device_sessions.session": ("v", "v", "v", "v"),
    "device_sessions.qkdpolicy": ("v", "v", "vo", "v"),
    "enclave.enclaveinstance": ("v", "v", "v", "v"),
    "training.federation": ("v", "vio", "v", "v"),
    "training.round": ("v", "vo", "v", "v"),
    "training.roundstep": ("v", "v", "v", "v"),
    "training.participation": ("v", "vo", "v", "v"),
    "training.update": ("v", "v", "v", "v"),
    "training.modelversion": ("v", "vo", "v", "v"),
    "training.versionevaluation": ("v", "v", "v", "v"),
    "training.privacyrelease": ("v", "v", "v", "v"),
    "qflare_site.processheartbeat": ("v", "v", "v", "v"),
    "qflare_site.taskfailure": ("", "v", "v", "v"),
    "monitor.incident": ("", "vo", "vo", "v"),
    "monitor.sighting": ("", "v", "v", "v"),
    "monitor.timelineentry": ("", "v", "v", "v"),
    "monitor.response": ("", "vo", "vo", "v"),
    "monitor.delivery": ("", "v", "v", "v"),
    "monitor.rulesetting": ("", "v", "vo", "v"),
    "monitor.notificationchannel": ("", "", "vio", "v"),
    "audit.event": ("", "v", "vo", "vo"),
    "audit.entry": ("", "v", "vo", "vo"),
    "audit.checkpoint": ("", "v", "vo", "vo"),
    "audit.witnesscosignature": ("", "", "v", "v"),
    "audit.witnesssighting": ("", "", "v", "v"),
    "audit.anchorreceipt": ("", "", "v", "v"),
    "keyring.serverkey": ("", "", "v", "v"),
    "keyring.datakey": ("", "", "v", "v"),
    "operator_api.apikey": ("", "", "vio", "v"),
    "operator_access.approvalrequest": ("", "v", "vo", "v"),  # o: approve a command of the escrow
    "auth.user": ("", "", "vio", "v"),
    "auth.group": ("", "", "v", "v"),
    "axes.accessattempt": ("", "", "ve", "v"),
    "axes.accesslog": ("", "", "v", "v"),
    "axes.accessfailurelog": ("", "", "v", "v"),
    "django_celery_beat.periodictask": ("", "v", "v", "v"),
    "django_celery_beat.intervalschedule": ("", "v", "v", "v"),
}


def permissions_of_role(role: Role) -> Iterator[tuple[str, str]]:
    """Yield (app label, codename) of every permission of a role."""
    column = list(Role).index(role)
    for model, cells in TABLE.items():
        app, _, name = model.partition(".")
        for letter in cells[column]:
            yield app, f"{VERBS[letter]}_{name}"


def set_up_roles(apps: Any) -> None:
    """Make the groups with exactly these permissions; may run again, and takes away what is not in the table.

    `apps` is Django's registry, or that of a migration. Raises `LookupError` for a permission of no model.
    """
    _create_missing_permissions(apps)
    group_model, permission_model = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    rows = permission_model.objects.values_list("content_type__app_label", "codename", "pk")
    keys = {(app, codename): key for app, codename, key in rows}
    for role in Role:
        group, _ = group_model.objects.get_or_create(name=role.value)
        group.permissions.set([keys[permission] for permission in permissions_of_role(role)])


def _create_missing_permissions(apps: Any) -> None:
    """Make the permissions of all models, which Django does only after the last migration."""
    for app in apps.get_app_configs():
        known = getattr(app, "models_module", None)
        app.models_module = True  # that of a migration's registry has none, and would be passed over
        create_permissions(app, apps=apps, verbosity=0)
        app.models_module = known
