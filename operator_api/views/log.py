"""The audit log: its entries, the proof of one, the newest checkpoint."""

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from audit.models import Entry
from audit.proofs import entry_proof
from operator_api.authentication import OperatorView
from operator_api.listing import ListView, Narrowing
from operator_api.scopes import Scope
from qflare_protocol.errors import Refusal


class EntrySerializer(serializers.ModelSerializer[Entry]):
    """An entry with what it tells; of an erased one its kind and time alone."""

    description = serializers.CharField(source="event.description")
    actor = serializers.CharField(source="event.actor")
    payload = serializers.JSONField(source="event.payload")
    entry_hash = serializers.SerializerMethodField()

    class Meta:
        model = Entry
        fields = ("index", "occurred_at", "kind", "actor", "description", "payload", "entry_hash")
        read_only_fields = fields

    def get_entry_hash(self, entry: Entry) -> str:
        """Return the chain's hash at the entry, in hexadecimal."""
        return bytes(entry.entry_hash).hex()


class EntryNarrowing(Narrowing):
    """Entries by kind or actor, or behind an index."""

    kind = serializers.CharField(required=False)
    actor = serializers.CharField(required=False, source="event__actor")
    after = serializers.IntegerField(required=False, min_value=0, source="index__gt", help_text="Entries behind this.")


class Proof(serializers.Serializer[dict[str, str]]):
    """A C2SP tlog-proof."""

    proof = serializers.CharField()


class EntriesView(ListView):
    """`GET log/entries`."""

    scopes = {"GET": Scope.LOG_READ}
    serializer_class, narrowing, ordering = EntrySerializer, EntryNarrowing, ("-index",)

    def rows(self) -> QuerySet[Entry]:
        """Return all entries."""
        return Entry.objects.select_related("event")

    @extend_schema(operation_id="list_entries", parameters=[EntryNarrowing], responses=EntrySerializer(many=True))
    def get(self, request: Request) -> Response:
        """List entries, newest first."""
        return self.page(request)


class EntryProofView(OperatorView):
    """`GET log/entries/<index>/proof`."""

    scopes = {"GET": Scope.LOG_READ}

    @extend_schema(operation_id="prove_entry", responses=Proof)
    def get(self, request: Request, index: int) -> Response:
        """Prove that an entry is in the log, as a C2SP tlog-proof that `qflare-verify` checks offline."""
        entry = Entry.objects.select_related("event").filter(index=index).first()
        if entry is None:
            raise Refusal("not-found", "The log has no entry of that index.")
        try:
            return Response({"proof": entry_proof(entry)})
        except LookupError as error:
            raise Refusal("conflict", "No checkpoint covers the entry yet; ask again in a few minutes.") from error
