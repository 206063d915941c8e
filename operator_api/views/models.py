"""Model versions: see their lineage and metrics, release one, go back to an earlier one."""

import uuid

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from operator_admin.actions import refuse_alone
from operator_api.authentication import OperatorView
from operator_api.listing import ListView, Narrowing
from operator_api.reasons import Reason
from operator_api.scopes import Scope
from operator_api.views.federations import federation_by_id
from qflare_protocol.errors import Refusal
from training.models import ModelVersion
from training.services.model_release import release_version, roll_back


class ModelVersionSerializer(serializers.ModelSerializer[ModelVersion]):
    """A version of a federation's model, without its weights."""

    federation_id = serializers.UUIDField()
    federation = serializers.CharField(source="federation.name")
    digest = serializers.SerializerMethodField()
    restored_from = serializers.IntegerField(source="restored_from.number", default=None, allow_null=True)

    class Meta:
        model = ModelVersion
        fields = (
            "id", "federation_id", "federation", "number", "digest", "size_bytes", "restored_from", "metrics",
            "reported_metrics", "privacy_epsilon", "privacy_delta", "released_at", "created_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_digest(self, version: ModelVersion) -> str:
        """Return the BLAKE3 digest of the safetensors file, in hexadecimal."""
        return bytes(version.digest).hex()


class ModelNarrowing(Narrowing):
    """Versions by federation or number."""

    federation = serializers.UUIDField(required=False, source="federation_id")
    number = serializers.IntegerField(required=False, min_value=0)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "example", {"number": 7, "reason": "Version 8 is worse in the field.", "continue_training": False}
        )
    ]
)
class GoingBack(Reason):
    """To which version to go back, and whether training goes on from it too."""

    number = serializers.IntegerField(min_value=0)
    continue_training = serializers.BooleanField(default=False)


def _versions() -> QuerySet[ModelVersion]:
    return ModelVersion.objects.select_related("federation", "restored_from").defer(
        "provenance", "restored_from__provenance"
    )


class ModelsView(ListView):
    """`GET models`."""

    scopes = {"GET": Scope.MODELS_READ}
    serializer_class, narrowing, ordering = ModelVersionSerializer, ModelNarrowing, ("-created_at", "-id")

    def rows(self) -> QuerySet[ModelVersion]:
        """Return all versions."""
        return _versions()

    @extend_schema(operation_id="list_models", parameters=[ModelNarrowing], responses=ModelVersionSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List model versions, newest first."""
        return self.page(request)


class ReleaseView(OperatorView):
    """`POST models/<id>/release`."""

    scopes = {"POST": Scope.MODELS_WRITE}

    @extend_schema(operation_id="release_model", request=None, responses=ModelVersionSerializer)
    def post(self, request: Request, version_id: int) -> Response:
        """Make a version the released one of its federation."""
        if not _versions().filter(id=version_id).exists():
            raise Refusal("not-found", "There is no such model version.")
        refuse_alone("release")
        release_version(version_id, actor=request.user.actor, now=timezone.now())
        return Response(ModelVersionSerializer(_versions().get(id=version_id)).data)


class RollBackView(OperatorView):
    """`POST federations/<id>/roll-back`."""

    scopes = {"POST": Scope.MODELS_WRITE}

    @extend_schema(operation_id="roll_back_model", request=GoingBack, responses=ModelVersionSerializer)
    def post(self, request: Request, federation_id: uuid.UUID) -> Response:
        """Release an earlier version than the released one; with `continue_training` the next round starts from it."""
        asked = GoingBack(data=request.data)
        asked.is_valid(raise_exception=True)
        federation_by_id(federation_id)
        refuse_alone("release")
        version = roll_back(federation_id, actor=request.user.actor, now=timezone.now(), **asked.validated_data)
        return Response(ModelVersionSerializer(_versions().get(id=version.id)).data)
