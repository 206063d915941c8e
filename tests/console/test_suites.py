"""The status page says of each suite whether it is in use, and of each algorithm in use who serves it."""

import pytest
from django.urls import reverse

from qflare_protocol.pqc import registry, self_test

pytestmark = pytest.mark.django_db


def status_page(staff):
    return " ".join(staff.get(reverse("console:system")).content.decode().split())


@pytest.fixture(autouse=True)
def tested_anew():
    registry.forget_tests()
    yield
    registry.forget_tests()


def test_suites_show_their_state_and_algorithms_in_use_their_candidates(staff, settings):
    settings.QFLARE_SUITES = ["QF1-F640", "QF1-H1024"]
    page = status_page(staff)
    assert '<th scope="row">QF1-F640</th><td><span class="state success">in use</span></td>' in page
    assert '<th scope="row">QF1-M</th><td><span class="state neutral">not in use</span></td>' in page
    assert '<th scope="row">X-Wing</th>' in page
    assert '<th scope="row">Classic-McEliece-6960119</th>' not in page
    assert "numpy" in page


def test_a_suite_in_use_that_cannot_be_served_shows_why(staff, settings, monkeypatch):
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "X-Wing", "0" * 64)
    settings.QFLARE_SUITES = ["QF1-F640", "QF1-H1024"]
    page = status_page(staff)
    assert '<span class="state danger">unavailable</span> The engine cryptography failed its self-test' in page
    assert '<span class="state danger">failed</span>' in page
