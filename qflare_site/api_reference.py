"""`GET /docs/api`: the OpenAPI description as a page to read, made here, without any script."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator

from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX, Problem

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Member:
    """One parameter, or one member of a body."""

    name: str
    kind: str
    required: bool
    words: str


@dataclass(frozen=True)
class Body:
    """What is sent or answered; without members it is bytes or text of the media type."""

    status: str
    media_type: str
    members: list[Member]
    example: Any


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    words: str
    parameters: list[Member]
    request: Body | None
    answers: list[Body]


@dataclass(frozen=True)
class Chapter:
    """The operations for one kind of caller."""

    name: str
    words: str
    operations: list[Operation]


@require_safe
def api_reference(request: HttpRequest) -> HttpResponse:
    """Show every endpoint with what it takes and gives, and every type of refusal."""
    context = {"chapters": chapters(), "problems": problems(), "prefix": TYPE_PREFIX}
    return render(request, "docs/api.html", context)


def problems() -> list[Problem]:
    """Return the catalogue of refusals by status and code."""
    return sorted(CATALOGUE.values(), key=lambda problem: (problem.status, problem.code))


@cache
def chapters() -> list[Chapter]:
    """Return the whole description; it does not change while a process lives."""
    description = SchemaGenerator().get_schema(request=None, public=True)
    reader = _Reader(description)
    return [
        Chapter(tag["name"], tag["description"], [one for one in reader.operations(tag["name"])])
        for tag in description["tags"]
    ]


class _Reader:
    """Reads an OpenAPI description."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._paths, self._components = description["paths"], description["components"]

    def operations(self, tag: str) -> list[Operation]:
        """Return the operations that bear the tag."""
        found = []
        for path, methods in self._paths.items():
            for method in METHODS:
                if tag in methods.get(method, {}).get("tags", ()):
                    found.append(self._operation(path, method, methods[method]))
        return found

    def _operation(self, path: str, method: str, told: Mapping[str, Any]) -> Operation:
        request = told.get("requestBody", {}).get("content", {})
        return Operation(
            told["operationId"],
            method.upper(),
            path,
            told.get("description", ""),
            [self._member(one["name"], one["schema"], one) for one in told.get("parameters", ())],
            next((self._body("", kind, content) for kind, content in request.items()), None),
            [
                self._body(status, kind, content)
                for status, answer in told["responses"].items()
                for kind, content in answer.get("content", {}).items()
            ],
        )

    def _body(self, status: str, media_type: str, content: Mapping[str, Any]) -> Body:
        schema = self._resolved(content.get("schema", {}))
        rows = schema.get("items") or schema.get("properties", {}).get("results", {}).get("items")
        shown = self._resolved(rows) if rows else schema
        required = shown.get("required", ())
        members = [
            self._member(name, one, {"required": name in required} | one)
            for name, one in shown.get("properties", {}).items()
        ]
        examples = [example["value"] for example in content.get("examples", {}).values()]
        return Body(status, media_type, members, examples[0] if examples else None)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self._components["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema

    def _member(self, name: str, schema: Mapping[str, Any], told: Mapping[str, Any]) -> Member:
        return Member(name, self._kind(schema), told.get("required") is True, told.get("description", ""))

    def _kind(self, schema: Mapping[str, Any]) -> str:
        named = [one for one in (schema, *schema.get("allOf", ()), *schema.get("oneOf", ())) if one]
        resolved = [self._resolved(one) for one in named]
        kinds = [one["enum"] and "one of " + ", ".join(map(str, one["enum"])) for one in resolved if one.get("enum")]
        kinds += [" ".join(filter(None, (one.get("type"), one.get("format")))) for one in resolved if "type" in one]
        return kinds[0] if kinds else "any"
