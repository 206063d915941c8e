"""Quantum key distribution on the server's side: its way to the KME, and the policy of each device group."""

from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db import transaction

from audit.services import record_event
from devices.models import Device
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd import KmeClient, QkdUse
from sessions.models import QkdPolicy

SERVER_TIMEOUT_SECONDS = 3.0  # for the KME's answer; connecting may take as long for each of its addresses


def server_kme_client() -> KmeClient | None:
    """Return the client of the server's own KME, or None where none is configured.

    Certificates are read anew each time, so that renewed ones hold without a restart. Raises
    `QkdUnavailable` where they cannot be used.
    """
    if not settings.QFLARE_QKD_KME_URL:
        return None
    return KmeClient(
        settings.QFLARE_QKD_KME_URL,
        Path(settings.QFLARE_QKD_CERTIFICATE),
        Path(settings.QFLARE_QKD_PRIVATE_KEY),
        Path(settings.QFLARE_QKD_CA),
        timeout=SERVER_TIMEOUT_SECONDS,
    )


def qkd_policy_of(device: Device) -> QkdUse:
    """Return the policy of the device's group; off where nobody has set one."""
    row = QkdPolicy.objects.filter(group=device.group).first()
    return QkdUse(row.policy) if row else QkdUse.OFF


@transaction.atomic
def set_qkd_policy(group: str, policy: str, *, actor: str, now: datetime) -> QkdPolicy:
    """Set a device group's policy for its next handshakes; one that stands already is left as it is.

    Raises `Refusal("malformed-message")` for a policy that is not off, preferred or required, or a
    group that is too long.
    """
    if policy not in list(QkdUse) or len(group) > QkdPolicy._meta.get_field("group").max_length:
        raise Refusal("malformed-message", f"Name a group and one of {', '.join(QkdUse)}.")
    row, _ = QkdPolicy.objects.select_for_update().get_or_create(
        group=group, defaults={"policy": QkdUse.OFF.value, "changed_at": now}
    )
    if row.policy == policy:
        return row
    payload = {"group": group, "previous": row.policy, "policy": str(policy)}
    row.policy, row.changed_at = str(policy), now
    row.save(update_fields=("policy", "changed_at"))
    record_event("qkd_policy.changed", actor=actor, payload=payload)
    return row
