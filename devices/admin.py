"""The public keys of devices. Devices are administered in `sessions.admin`: suspending one ends its sessions."""

from django.contrib import admin

from devices.models import DeviceKey
from operator_admin.base import ReadOnlyAdmin, ReadOnlyInline
from operator_admin.columns import hex_column, live_or_retired, state_column


class DeviceKeyInline(ReadOnlyInline):
    """The public keys on the device's page."""

    model = DeviceKey
    short_fingerprint = hex_column("fingerprint", "Fingerprint")
    fields = readonly_fields = ("purpose", "algorithm", "short_fingerprint", "registered_at", "retired_at")


@admin.register(DeviceKey)
class DeviceKeyAdmin(ReadOnlyAdmin):
    """Public keys, live and retired."""

    state = state_column(live_or_retired)
    short_fingerprint = hex_column("fingerprint", "Fingerprint")
    public_key_start = hex_column("public_key", "Public key")

    list_display = ("device", "purpose", "algorithm", "short_fingerprint", "state", "registered_at")
    list_filter = ("purpose", "algorithm")
    list_select_related = ("device",)
    search_fields = ("device__name",)
    date_hierarchy = "registered_at"
    fields = (
        "device", "purpose", "algorithm", "short_fingerprint", "public_key_start", "state",
        "registered_at", "retired_at",
    )  # fmt: skip
    readonly_fields = ("short_fingerprint", "public_key_start", "state")
