"""Every endpoint under generated requests: no failure of the server, and no answer that is not described."""

from datetime import timedelta

import httpx
import pytest
import schemathesis
from django.core.cache import caches
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from operator_api.scopes import Scope
from operator_api.services import create_key
from qflare_protocol.sealed_request import SEALED_MEDIA_TYPE
from tests.factories import populate
from tests.site_transport import SiteTransport

DESCRIBED = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)

schema = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))

pytestmark = pytest.mark.django_db


@schemathesis.serializer("application/cbor", SEALED_MEDIA_TYPE)
def as_it_is(_context, value):
    """Bodies of QF/1 are bytes to the description; whatever else was generated is sent as its text."""
    return bytes(value) if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.fixture
def key(db):
    """A site with rows in every table, and a key that may do everything there."""
    populate()
    scopes = list(Scope.values)
    return create_key("fuzzer", scopes=scopes, lifetime=timedelta(days=1), actor="operator:olga", now=timezone.now())


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_described(key, case):
    caches["ratelimit"].clear()
    case.validate_response(answer_to(case, key.text), checks=list(DESCRIBED))


def answer_to(case, key):
    """Send a generated request to the site in this process, under the key where the endpoint takes one."""
    prepared = case.as_transport_kwargs(base_url="http://testserver")
    headers = {name: value for name, value in (prepared.get("headers") or {}).items() if name.isascii()}
    if "/api/operator/" in prepared["url"]:
        headers["Authorization"] = f"Bearer {key}"
    body = prepared.get("data")
    with httpx.Client(transport=SiteTransport()) as client:
        return client.request(
            prepared["method"],
            prepared["url"],
            params=prepared.get("params"),
            headers=headers,
            json=prepared.get("json"),
            content=body if isinstance(body, bytes | str) else None,
        )
