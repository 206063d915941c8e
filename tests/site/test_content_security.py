"""The Content-Security-Policy of pages, of the admin and of the API's answers."""

import pytest
from csp.utils import build_policy
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("address", ["/api/work", "/api/no-such-endpoint", "/api/enclave/status", "/log/checkpoint"])
def test_answers_of_the_api_have_the_sites_policy(client: Client, address: str) -> None:
    assert client.get(address)["Content-Security-Policy"] == build_policy()
    assert "default-src 'none'" in build_policy()


def test_the_admins_pages_alone_have_a_wider_one(client: Client) -> None:
    assert "unsafe" in client.get("/admin/login/")["Content-Security-Policy"]
    assert "unsafe" not in client.get("/api/work")["Content-Security-Policy"]


def test_the_policy_is_that_of_the_settings(settings: object) -> None:
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": ["'self'"]}}
    assert Client().get("/api/work")["Content-Security-Policy"] == "default-src 'self'"
