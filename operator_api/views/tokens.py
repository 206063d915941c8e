"""Enrolment tokens: issue some, see what became of them, revoke what is unused."""

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from enrollment.device_command import device_command
from enrollment.models import EnrolmentToken
from enrollment.services import MAX_TOKENS_AT_ONCE, IssuedToken, issue_tokens, revoke_token
from operator_api.authentication import OperatorView
from operator_api.listing import ListView, Narrowing
from operator_api.scopes import Scope
from qflare_protocol.errors import Refusal

LONGEST_HOURS = 24 * 90


class TokenSerializer(serializers.ModelSerializer[EnrolmentToken]):
    """What is known of a token afterwards: everything but its text."""

    state = serializers.SerializerMethodField()
    used_by = serializers.CharField(source="used_by.name", default=None, allow_null=True)

    class Meta:
        model = EnrolmentToken
        fields = (
            "id", "device_name", "group", "suite", "state", "issued_by", "issued_at", "expires_at", "used_at",
            "used_by", "revoked_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_state(self, token: EnrolmentToken) -> str:
        """Return "unused", "used", "expired" or "revoked"."""
        return token.state(timezone.now())


@extend_schema_serializer(
    examples=[OpenApiExample("example", {"count": 3, "device_name": "site", "group": "ward", "hours": 24})]
)
class IssueSerializer(serializers.Serializer[Mapping[str, Any]]):
    """The terms of new tokens."""

    count = serializers.IntegerField(min_value=1, max_value=MAX_TOKENS_AT_ONCE, default=1)
    device_name = serializers.CharField(
        max_length=100, default="", allow_blank=True, help_text="Several are for name-1, name-2; empty: their choice."
    )
    group = serializers.CharField(max_length=100, default="", allow_blank=True)
    suite = serializers.CharField(max_length=20, default="", allow_blank=True, help_text="Empty: the site's default.")
    hours = serializers.FloatField(min_value=0.01, max_value=LONGEST_HOURS, default=24.0, help_text="Lifetime.")


class IssuedSerializer(TokenSerializer):
    """A new token with its text, which is shown here and never again, and the command that uses it."""

    token = serializers.CharField()
    command = serializers.CharField()

    class Meta(TokenSerializer.Meta):
        fields = (*TokenSerializer.Meta.fields, "token", "command")
        read_only_fields = fields


class TokenNarrowing(Narrowing):
    """Tokens by the device or group they are for."""

    device_name = serializers.CharField(required=False, allow_blank=True)
    group = serializers.CharField(required=False, allow_blank=True)


class TokensView(ListView):
    """`GET` and `POST tokens`."""

    scopes = {"GET": Scope.TOKENS_READ, "POST": Scope.TOKENS_WRITE}
    serializer_class, narrowing, ordering = TokenSerializer, TokenNarrowing, ("-issued_at", "id")

    def rows(self) -> QuerySet[EnrolmentToken]:
        """Return all tokens."""
        return EnrolmentToken.objects.select_related("used_by")

    @extend_schema(operation_id="list_tokens", parameters=[TokenNarrowing], responses=TokenSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List tokens, newest first."""
        return self.page(request)

    @extend_schema(operation_id="issue_tokens", request=IssueSerializer, responses={201: IssuedSerializer(many=True)})
    def post(self, request: Request) -> Response:
        """Issue tokens; their texts are in this answer and nowhere else."""
        asked = IssueSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        terms = dict(asked.validated_data)
        issued = issue_tokens(
            terms.pop("count"),
            lifetime=timedelta(hours=terms.pop("hours")),
            actor=request.user.actor,
            now=timezone.now(),
            **terms,
        )
        server = request.build_absolute_uri("/").rstrip("/")
        return Response([_with_text(token, server) for token in issued], status=status.HTTP_201_CREATED)


def _with_text(issued: IssuedToken, server: str) -> dict[str, Any]:
    return TokenSerializer(issued.row).data | {"token": issued.text, "command": device_command(issued, server)}


class RevokeTokenView(OperatorView):
    """`POST tokens/<id>/revoke`."""

    scopes = {"POST": Scope.TOKENS_WRITE}

    @extend_schema(operation_id="revoke_token", request=None, responses=TokenSerializer)
    def post(self, request: Request, token_id: uuid.UUID) -> Response:
        """Revoke an unused token."""
        tokens = EnrolmentToken.objects.select_related("used_by").filter(id=token_id)
        if not tokens.exists():
            raise Refusal("not-found", "There is no such token.")
        revoke_token(token_id, actor=request.user.actor, now=timezone.now())
        return Response(TokenSerializer(tokens.get()).data)
