"""The audit log, to read and to verify."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect

from audit.models import AnchorReceipt, Checkpoint, Entry, Event, WitnessCosignature, WitnessSighting
from audit.proofs import entry_proof
from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import hex_column
from operator_admin.decorators import action, display


class LogAdmin(ReadOnlyAdmin):
    """A table of the log, with the way to where the whole log is verified."""

    actions_list = ("verify",)

    @action(description="Verify the log", url_path="verify", permissions=["operate"])
    def verify(self, _request: HttpRequest) -> HttpResponse:
        """Lead to the console's screen, which verifies in parts and records how it ended."""
        return redirect("console:log-verify")


@admin.register(Event)
class EventAdmin(LogAdmin):
    """What happened, newest first, in the log or on its way into it."""

    list_display = ("occurred_at", "description", "actor", "kind", "sequenced")
    list_display_links = ("occurred_at", "description")
    list_filter = ("kind", "sequenced")
    search_fields = ("actor", "kind", "payload")
    date_hierarchy = "occurred_at"
    fields = ("occurred_at", "description", "actor", "kind", "payload", "event_id", "sequenced")
    readonly_fields = ("description", "event_id")


@admin.register(Entry)
class EntryAdmin(LogAdmin):
    """The links of the hash chain."""

    short_hash = hex_column("entry_hash", "Entry hash")
    short_leaf_hash = hex_column("leaf_hash", "Leaf hash")
    short_commitment = hex_column("commitment", "Commitment")

    actions_detail = ("download_proof",)
    list_display = ("index", "occurred_at", "description", "actor", "kind", "short_hash")
    list_display_links = ("index", "description")
    list_filter = ("kind",)
    list_select_related = ("event",)
    search_fields = ("event__actor", "kind")
    date_hierarchy = "occurred_at"
    fields = (
        "index", "occurred_at", "description", "actor", "kind", "content",
        "short_commitment", "short_hash", "short_leaf_hash",
    )  # fmt: skip
    readonly_fields = ("index", "description", "actor", "content", "short_commitment", "short_hash", "short_leaf_hash")

    @action(description="Download the proof", url_path="proof", permissions=["view"])
    def download_proof(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Hand out the entry with its proof as one file; it is checked with `qflare-verify --proof`."""
        entry = get_object_or_404(Entry.objects.select_related("event"), index=object_id)
        answer = HttpResponse(entry_proof(entry), content_type="text/plain; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="entry-{entry.index}.tlog-proof"'
        return answer

    @display(description="Actor")
    def actor(self, entry: Entry) -> str:
        """Who did it."""
        return entry.event.actor

    @display(description="Payload")
    def content(self, entry: Entry) -> str:
        """The payload, member by member."""
        return ", ".join(f"{name}: {value}" for name, value in entry.event.payload.items())


@admin.register(Checkpoint)
class CheckpointAdmin(LogAdmin):
    """The signed tree heads."""

    short_root = hex_column("root", "Root")

    list_display = ("created_at", "size", "short_root")
    date_hierarchy = "created_at"
    fields = ("created_at", "size", "short_root", "note")
    readonly_fields = ("short_root",)


@admin.register(WitnessCosignature)
class WitnessCosignatureAdmin(ReadOnlyAdmin):
    """What devices cosigned."""

    short_root = hex_column("root", "Root")
    short_key = hex_column("key_fingerprint", "Key")

    list_display = ("device_name", "size", "short_root", "short_key", "received_at")
    search_fields = ("device_name",)
    date_hierarchy = "received_at"
    fields = ("device_name", "size", "short_root", "algorithm", "short_key", "received_at")
    readonly_fields = ("short_root", "short_key")


@admin.register(AnchorReceipt)
class AnchorReceiptAdmin(ReadOnlyAdmin):
    """Where checkpoints were laid down, and where that was missed."""

    list_display = ("anchor", "kind", "checkpoint", "state", "attempts", "created_at", "done_at", "error")
    list_filter = ("state", "anchor", "kind")
    list_select_related = ("checkpoint",)
    date_hierarchy = "created_at"
    fields = (
        "anchor", "kind", "checkpoint", "state", "attempts", "next_attempt_at", "created_at", "done_at", "error",
    )  # fmt: skip


@admin.register(WitnessSighting)
class WitnessSightingAdmin(ReadOnlyAdmin):
    """The last checkpoint that each device has seen and found again."""

    short_root = hex_column("root", "Root")

    list_display = ("device_name", "size", "short_root", "seen_at")
    search_fields = ("device_name",)
    date_hierarchy = "seen_at"
    fields = ("device_name", "size", "short_root", "seen_at")
    readonly_fields = ("short_root",)
