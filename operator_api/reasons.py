"""What is asked of whoever changes something: the reason, which the audit log keeps."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request


@extend_schema_serializer(examples=[OpenApiExample("example", {"reason": "The device was lost."})])
class Reason(serializers.Serializer[Mapping[str, Any]]):
    """Why."""

    reason = serializers.CharField(max_length=500, help_text="Kept in the audit log.")


def reason_of(request: Request) -> str:
    """Return the reason that a request states. Raises `ValidationError` without one."""
    asked = Reason(data=request.data)
    asked.is_valid(raise_exception=True)
    return str(asked.validated_data["reason"])
