"""The OpenAPI description: whole, true, and as it was when somebody last looked at what changed."""

from pathlib import Path

import pytest
import yaml
from django.test import Client
from django.urls import get_resolver
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiYamlRenderer
from drf_spectacular.validation import validate_schema

from qflare_protocol.errors import CATALOGUE

SNAPSHOT = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"
DESCRIPTION = SchemaGenerator().get_schema(request=None, public=True)


def operations():
    for path, methods in DESCRIPTION["paths"].items():
        for method, operation in methods.items():
            yield pytest.param(operation, id=f"{method} {path}")


def test_the_description_is_that_of_the_snapshot():
    """To take a new one: python manage.py spectacular --file docs/openapi.yaml."""
    text = OpenApiYamlRenderer().render(DESCRIPTION, renderer_context={}).decode()
    assert yaml.safe_load(text) == yaml.safe_load(SNAPSHOT.read_text())


def test_the_description_is_valid_openapi():
    validate_schema(DESCRIPTION)


def test_every_endpoint_of_api_and_log_is_described():
    described = {path.partition("{")[0] for path in DESCRIPTION["paths"]}
    for pattern in get_resolver().url_patterns:
        prefix = str(pattern.pattern)
        for own in getattr(pattern, "url_patterns", ()) if prefix in ("api/", "api/operator/", "log/") else ():
            assert f"/{prefix}{own.pattern}".partition("<")[0] in described


@pytest.mark.parametrize("operation", list(operations()))
def test_every_operation_says_what_it_does_and_how_it_refuses(operation):
    assert operation["description"]
    assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
    assert len(operation["tags"]) == 1


def test_every_refusal_of_the_catalogue_is_a_type_of_problem():
    named = DESCRIPTION["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert named == sorted(f"urn:qflare:problem:{code}" for code in CATALOGUE)


def test_operation_ids_are_unique():
    ids = [one.values[0]["operationId"] for one in operations()]
    assert len(set(ids)) == len(ids)


@pytest.mark.django_db
def test_the_description_is_served_to_everybody():
    answer = Client().get("/api/schema")
    assert answer.status_code == 200
    assert set(yaml.safe_load(answer.content)["paths"]) == set(DESCRIPTION["paths"])


@pytest.mark.django_db
def test_the_page_shows_every_operation_and_every_refusal_without_a_script():
    answer = Client().get("/docs/api")
    page = answer.content.decode()
    for one in operations():
        assert f'id="{one.values[0]["operationId"]}"' in page
    for code in CATALOGUE:
        assert f"<code>{code}</code>" in page
    assert "<script" not in page
    assert "unsafe" not in answer["Content-Security-Policy"]
