"""Rounds: open one, see how it goes and who took part, extend or cancel it."""

import uuid
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from operator_api.authentication import OperatorView
from operator_api.listing import ListView, Narrowing
from operator_api.reasons import Reason, reason_of
from operator_api.scopes import Scope
from operator_api.views.federations import federation_by_id
from qflare_protocol.errors import Refusal
from training.dispatch import start_round
from training.models import Participation, ParticipationState, Round, RoundState
from training.services.rounds import cancel_round, extend_round
from training.terms import MAX_EXTENSION_SECONDS


class RoundSerializer(serializers.ModelSerializer[Round]):
    """A round."""

    federation_id = serializers.UUIDField()
    federation = serializers.CharField(source="federation.name")
    base_version = serializers.IntegerField(source="base_version.number")
    resulting_version = serializers.IntegerField(source="resulting_version.number", default=None, allow_null=True)

    class Meta:
        model = Round
        fields = (
            "id", "federation_id", "federation", "number", "state", "end_reason", "invited", "minimum_updates",
            "target_updates", "submissions", "failures", "restarts", "extensions", "base_version", "resulting_version",
            "created_at", "opened_at", "deadline_at", "closed_at", "finished_at",
        )  # fmt: skip
        read_only_fields = fields


class ParticipationSerializer(serializers.ModelSerializer[Participation]):
    """One device's part in a round: how far it came, and what the enclave made of its update."""

    device_id = serializers.UUIDField()
    device = serializers.CharField(source="device.name")

    class Meta:
        model = Participation
        fields = (
            "device_id", "device", "state", "reason", "scores", "loss", "progress", "downloaded_at", "submitted_at",
        )  # fmt: skip
        read_only_fields = fields


class RoundNarrowing(Narrowing):
    """Rounds by federation or state."""

    federation = serializers.UUIDField(required=False, source="federation_id")
    state = serializers.ChoiceField(RoundState.choices, required=False)


class ParticipationNarrowing(Narrowing):
    """Parts by state."""

    state = serializers.ChoiceField(ParticipationState.choices, required=False)


@extend_schema_serializer(examples=[OpenApiExample("example", {"federation": "5f0c8c9e-3f0b-4a43-9a9e-1d7c6a4f2b10"})])
class Opening(serializers.Serializer[Mapping[str, Any]]):
    """Of which federation to open a round."""

    federation = serializers.UUIDField()


@extend_schema_serializer(
    examples=[OpenApiExample("example", {"seconds": 600, "reason": "Two wards are on slow lines today."})]
)
class Extension(Reason):
    """By how much to put a deadline off, and why."""

    seconds = serializers.IntegerField(min_value=1, max_value=MAX_EXTENSION_SECONDS)


def round_by_id(round_id: uuid.UUID) -> Round:
    """Return a round, without its roster. Raises `Refusal("not-found")`."""
    found = _rounds().filter(id=round_id).first()
    if found is None:
        raise Refusal("not-found", "There is no such round.")
    return found


def _rounds() -> QuerySet[Round]:
    named = Round.objects.select_related("federation", "base_version", "resulting_version")
    return named.defer("roster", "base_version__provenance", "resulting_version__provenance")


class RoundsView(ListView):
    """`GET` and `POST rounds`."""

    scopes = {"GET": Scope.ROUNDS_READ, "POST": Scope.ROUNDS_WRITE}
    serializer_class, narrowing, ordering = RoundSerializer, RoundNarrowing, ("-created_at", "id")

    def rows(self) -> QuerySet[Round]:
        """Return all rounds."""
        return _rounds()

    @extend_schema(operation_id="list_rounds", parameters=[RoundNarrowing], responses=RoundSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List rounds, newest first."""
        return self.page(request)

    @extend_schema(operation_id="open_round", request=Opening, responses={201: RoundSerializer})
    def post(self, request: Request) -> Response:
        """Open a round of a federation."""
        asked = Opening(data=request.data)
        asked.is_valid(raise_exception=True)
        federation = federation_by_id(asked.validated_data["federation"])
        opened = start_round(federation.id, actor=request.user.actor, now=timezone.now())
        return Response(RoundSerializer(round_by_id(opened.id)).data, status=status.HTTP_201_CREATED)


class RoundView(OperatorView):
    """`GET rounds/<id>`."""

    scopes = {"GET": Scope.ROUNDS_READ}

    @extend_schema(operation_id="show_round", responses=RoundSerializer)
    def get(self, request: Request, round_id: uuid.UUID) -> Response:
        """Show a round."""
        return Response(RoundSerializer(round_by_id(round_id)).data)


class ParticipationsView(ListView):
    """`GET rounds/<id>/participations`."""

    scopes = {"GET": Scope.ROUNDS_READ}
    serializer_class, narrowing, ordering = ParticipationSerializer, ParticipationNarrowing, ("id",)

    def rows(self) -> QuerySet[Participation]:
        """Return the parts of the round."""
        return Participation.objects.select_related("device").filter(round_id=self.kwargs["round_id"])

    @extend_schema(
        operation_id="list_participations",
        parameters=[ParticipationNarrowing],
        responses=ParticipationSerializer(many=True),
    )
    def get(self, request: Request, round_id: uuid.UUID) -> Response:
        """List who was invited to a round, and what became of it."""
        round_by_id(round_id)
        return self.page(request)


class ExtendRoundView(OperatorView):
    """`POST rounds/<id>/extend`."""

    scopes = {"POST": Scope.ROUNDS_WRITE}

    @extend_schema(operation_id="extend_round", request=Extension, responses=RoundSerializer)
    def post(self, request: Request, round_id: uuid.UUID) -> Response:
        """Put the deadline of an open round off."""
        asked = Extension(data=request.data)
        asked.is_valid(raise_exception=True)
        round_by_id(round_id)
        extend_round(round_id, actor=request.user.actor, now=timezone.now(), **asked.validated_data)
        return Response(RoundSerializer(round_by_id(round_id)).data)


class CancelRoundView(OperatorView):
    """`POST rounds/<id>/cancel`."""

    scopes = {"POST": Scope.ROUNDS_WRITE}

    @extend_schema(operation_id="cancel_round", request=Reason, responses=RoundSerializer)
    def post(self, request: Request, round_id: uuid.UUID) -> Response:
        """End a round without a model; the updates it has received can never be opened."""
        reason = reason_of(request)
        round_by_id(round_id)
        cancel_round(round_id, reason=reason, actor=request.user.actor, now=timezone.now())
        return Response(RoundSerializer(round_by_id(round_id)).data)
