"""Pages of lists: the last one there is, and those behind it."""

import pytest
from django.urls import reverse

from qflare_site.console import listing
from tests.factories import make_device, populate

LISTS = (
    "devices", "enrolment", "sessions", "federations", "rounds", "models", "incidents", "log-checkpoints",
    "task-failures",
)  # fmt: skip

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", LISTS)
def test_a_page_behind_the_last_is_no_empty_site_and_leads_to_the_first(staff, name):
    populate()
    page = staff.get(reverse(f"console:{name}"), {"page": "7"}).content.decode()
    assert "There is no such page." in page
    assert 'href="?page=1"' in page
    first = staff.get(reverse(f"console:{name}")).content.decode()
    assert "There is no such page." not in first


def test_the_way_back_to_the_first_page_keeps_the_filters(staff):
    page = staff.get(reverse("console:devices"), {"page": "7", "state": "active", "search": "edge"}).content.decode()
    assert 'href="?state=active&amp;search=edge&amp;page=1"' in page


def test_the_deepest_page_offers_none_that_would_be_itself(staff, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_PER_PAGE", 1)
    monkeypatch.setattr(listing, "DEEPEST_PAGE", 2)
    for number in range(3):
        make_device(f"edge-{number}")
    assert staff.get(reverse("console:devices")).context["listing"].has_next
    deepest = staff.get(reverse("console:devices"), {"page": "2"}).context["listing"]
    assert [device.name for device in deepest.rows] == ["edge-1"]
    assert not deepest.has_next
