"""The OpenAPI description of every endpoint: what operators' endpoints take and give, and that devices' are QF/1.

What stands inside the bodies of QF/1 is docs/protocol.md's to say: they are CBOR, sealed inside a session.
"""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from operator_api.authentication import OperatorView
from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX
from sessions.sealed_views import SealedView

OPERATORS, DEVICES, LOG = "operators", "devices", "log"
PROBLEM_MEDIA_TYPE = "application/problem+json"
EXAMPLE = "conflict"
KINDS = {"object": OpenApiTypes.OBJECT, "text": OpenApiTypes.STR, "bytes": OpenApiTypes.BINARY}


class ApiSchema(AutoSchema):
    """Describes operators' endpoints by their serializers, and all others as bodies of their media type."""

    def get_tags(self) -> list[str]:
        """Return whom the endpoint is for."""
        if isinstance(self.view, OperatorView):
            return [OPERATORS]
        return [LOG] if self.path.startswith("/log/") else [DEVICES]

    def get_operation_id(self) -> str:
        """Return the method and the path in words."""
        words = self.path.removeprefix("/api/").strip("/").replace("{", "").replace("}", "")
        return f"{self.method.lower()}_{words.replace('/', '_').replace('-', '_')}"

    def get_request_serializer(self) -> Any:
        """Return what is declared, and else a body of bytes."""
        if isinstance(self.view, OperatorView):
            return super().get_request_serializer()
        return OpenApiTypes.BINARY if self.method in ("POST", "PUT", "PATCH") else None

    def get_response_serializers(self) -> Any:
        """Return what is declared, and else a body of bytes."""
        if isinstance(self.view, OperatorView):
            return super().get_response_serializers()
        return OpenApiTypes.BINARY if isinstance(self.view, SealedView) else self._public_answer()

    def _get_paginator(self) -> Any:
        """What is made in numbers is answered whole; only what is read comes by pages."""
        return super()._get_paginator() if self.method == "GET" else None

    def get_override_parameters(self) -> list[Any]:
        """Return the numbers that a public view reads from the query."""
        numbers = getattr(self.view, "numbers", ())
        return [OpenApiParameter(name, OpenApiTypes.INT64, description="From 0.") for name in numbers]

    def _public_answer(self) -> Any:
        """Return what the view says its answer is: its media type, and which of `KINDS`."""
        if not hasattr(self.view, "answers"):
            return OpenApiTypes.BINARY
        media_type, kind = self.view.answers
        return {(200, media_type): KINDS[kind]}


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """How operators' scripts say who they are."""

    target_class = "operator_api.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer", "description": "A key of `manage.py create_api_key`."}


class SealedSessionScheme(OpenApiAuthenticationExtension):
    """How a device does."""

    target_class = "sessions.sealed_views.SealedRequestAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        """Return the scheme."""
        words = "Session, epoch and sequence number of a request that is sealed as docs/protocol.md, section 7, says."
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": words}


def with_problems(result: dict[str, Any], **_named: Any) -> dict[str, Any]:
    """Give every operation its refusals: RFC 9457 problem details of the catalogue's types."""
    components = result.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = _problem_schema()
    components.setdefault("responses", {})["Problem"] = {
        "description": "A refusal. Inside a session it is sealed as every answer is.",
        "content": {
            PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _example_of(EXAMPLE)}
        },
    }
    for path in result["paths"].values():
        for operation in path.values():
            operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
    return result


def _problem_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "enum": sorted(f"{TYPE_PREFIX}{code}" for code in CATALOGUE)},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "What was wrong and what to do, for a person."},
            "errors": {"type": "object", "description": "Of malformed requests: what is wrong, by parameter."},
        },
        "additionalProperties": True,
    }


def _example_of(code: str) -> Mapping[str, Any]:
    problem = CATALOGUE[code]
    detail = "The round is over already."
    return {"type": f"{TYPE_PREFIX}{code}", "title": problem.title, "status": problem.status, "detail": detail}
