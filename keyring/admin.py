"""The server's own keys, to look at: which key signs and which encrypts at rest, since when."""

from django.contrib import admin

from keyring.models import DataKey, ServerKey
from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import hex_column, live_or_retired, state_column


@admin.register(ServerKey)
class ServerKeyAdmin(ReadOnlyAdmin):
    """Public halves only."""

    state = state_column(live_or_retired)
    short_fingerprint = hex_column("fingerprint", "Fingerprint")
    public_key_start = hex_column("public_key", "Public key")

    list_display = ("purpose", "algorithm", "short_fingerprint", "state", "created_at", "retired_at")
    list_filter = ("purpose", "algorithm")
    date_hierarchy = "created_at"
    fields = ("purpose", "algorithm", "short_fingerprint", "public_key_start", "state", "created_at", "retired_at")
    readonly_fields = ("short_fingerprint", "public_key_start", "state")


@admin.register(DataKey)
class DataKeyAdmin(ReadOnlyAdmin):
    """Where a data key belongs and what wraps it; never what it wraps or is."""

    state = state_column(live_or_retired)
    short_kek_id = hex_column("kek_id", "KEK id")

    list_display = ("id", "scope", "kek_provider", "short_kek_id", "escrow", "state", "created_at", "retired_at")
    list_filter = ("scope", "kek_provider")
    list_select_related = ("escrow",)
    date_hierarchy = "created_at"
    fields = ("id", "scope", "kek_provider", "short_kek_id", "escrow", "state", "created_at", "retired_at")
    readonly_fields = ("id", "short_kek_id", "state")
