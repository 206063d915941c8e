"""Federations: see them, pause and resume them."""

import uuid

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from operator_admin.actions import refuse_alone
from operator_api.authentication import OperatorView
from operator_api.listing import ListView, Narrowing
from operator_api.scopes import Scope
from qflare_protocol.errors import Refusal
from training.models import Federation, FederationState
from training.services.federations import pause_federation, resume_federation

CHANGES = {"pause": pause_federation, "resume": resume_federation}


class FederationSerializer(serializers.ModelSerializer[Federation]):
    """A federation with its terms."""

    current_version = serializers.IntegerField(source="current_version.number", default=None, allow_null=True)

    class Meta:
        model = Federation
        fields = (
            "id", "name", "group", "state", "finish_reason", "current_version", "mode", "round_seconds",
            "planned_rounds", "idle_devices", "selection", "selection_labels", "selection_fraction", "target_updates",
            "over_selection", "stop_metric", "stop_goal", "trainer", "trainer_parameters", "evaluator", "policy",
            "privacy_budget_epsilon", "privacy_delta", "created_at",
        )  # fmt: skip
        read_only_fields = fields


class FederationNarrowing(Narrowing):
    """Federations by name, group or state."""

    name = serializers.CharField(required=False)
    group = serializers.CharField(required=False, allow_blank=True)
    state = serializers.ChoiceField(FederationState.choices, required=False)


def federation_by_id(federation_id: uuid.UUID) -> Federation:
    """Return a federation. Raises `Refusal("not-found")`."""
    federation = Federation.objects.select_related("current_version").filter(id=federation_id).first()
    if federation is None:
        raise Refusal("not-found", "There is no such federation.")
    return federation


class FederationsView(ListView):
    """`GET federations`."""

    scopes = {"GET": Scope.FEDERATIONS_READ}
    serializer_class, narrowing, ordering = FederationSerializer, FederationNarrowing, ("name",)

    def rows(self) -> QuerySet[Federation]:
        """Return all federations."""
        return Federation.objects.select_related("current_version")

    @extend_schema(
        operation_id="list_federations", parameters=[FederationNarrowing], responses=FederationSerializer(many=True)
    )
    def get(self, request: Request) -> Response:
        """List federations by name."""
        return self.page(request)


class FederationView(OperatorView):
    """`GET federations/<id>`."""

    scopes = {"GET": Scope.FEDERATIONS_READ}

    @extend_schema(operation_id="show_federation", responses=FederationSerializer)
    def get(self, request: Request, federation_id: uuid.UUID) -> Response:
        """Show a federation."""
        return Response(FederationSerializer(federation_by_id(federation_id)).data)


class FederationChangeView(OperatorView):
    """`POST federations/<id>/pause` and `resume`."""

    scopes = {"POST": Scope.FEDERATIONS_WRITE}
    change = "pause"

    @extend_schema(request=None, responses=FederationSerializer)
    def post(self, request: Request, federation_id: uuid.UUID) -> Response:
        """Open no further rounds of a federation, or open them again."""
        federation_by_id(federation_id)
        if self.change == "resume":
            refuse_alone("policy")
        CHANGES[self.change](federation_id, actor=request.user.actor)
        return Response(FederationSerializer(federation_by_id(federation_id)).data)
