"""The public keys of devices. Devices are administered in `sessions.admin`: suspending one ends its sessions."""

from django.contrib import admin
from django.utils import timezone

from devices.models import DeviceKey
from operator_admin.base import ReadOnlyAdmin, ReadOnlyInline
from operator_admin.columns import hex_column, state_column


def key_state(key: DeviceKey) -> tuple[str, str]:
    """Return state and word of a key: current, in its overlap, or over."""
    if key.valid_until is None:
        return "live", "Current"
    return ("pending", "In its overlap") if key.valid_until > timezone.now() else ("retired", "Over")


class DeviceKeyInline(ReadOnlyInline):
    """The public keys on the device's page."""

    model = DeviceKey
    short_fingerprint = hex_column("fingerprint", "Fingerprint")
    state = state_column(key_state)
    fields = readonly_fields = (
        "purpose", "algorithm", "version", "short_fingerprint", "state", "valid_from", "valid_until", "sessions_opened",
    )  # fmt: skip


@admin.register(DeviceKey)
class DeviceKeyAdmin(ReadOnlyAdmin):
    """Public keys, live and retired."""

    state = state_column(key_state)
    short_fingerprint = hex_column("fingerprint", "Fingerprint")
    public_key_start = hex_column("public_key", "Public key")

    ordering = ("-valid_from",)  # names of another table cannot be read in order
    list_display = (
        "device",
        "purpose",
        "algorithm",
        "version",
        "short_fingerprint",
        "state",
        "valid_from",
        "valid_until",
    )
    list_filter = ("purpose", "algorithm")
    list_select_related = ("device",)
    search_fields = ("device__name",)
    date_hierarchy = "valid_from"
    fields = (
        "device", "purpose", "algorithm", "version", "short_fingerprint", "public_key_start", "state",
        "valid_from", "valid_until", "sessions_opened",
    )  # fmt: skip
    readonly_fields = ("short_fingerprint", "public_key_start", "state")
