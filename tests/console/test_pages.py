"""The console's pages: who sees them, what they say, and what they never say."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from django.contrib.staticfiles import finders
from django.urls import reverse
from django.utils import timezone

from devices.models import Device
from monitor.models import Incident
from monitor.services.incidents import close_incident
from qflare_site.console import devices as device_pages
from tests.factories import make_completed_round, make_device, make_federation, open_for_updates, populate
from training.services.rounds import cancel_round, open_round

PAGES = ["console:overview", "console:devices", "console:status"]

pytestmark = pytest.mark.django_db


def text_of(client, page):
    answer = client.get(reverse(page))
    assert answer.status_code == 200
    return answer.content.decode()


def words_of(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize("page", PAGES)
def test_strangers_and_visitors_are_sent_to_the_login(client, visitor, page):
    for browser in (client, visitor):
        answer = browser.get(reverse(page))
        assert answer.status_code == 302
        assert answer["Location"] == f"/admin/login/?next={reverse(page)}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_only_read(staff, page):
    assert staff.post(reverse(page)).status_code == 405


@pytest.mark.parametrize("page", PAGES)
def test_no_page_shows_a_secret_and_none_is_cached(staff, page):
    site = populate()
    answer = staff.get(reverse(page))
    assert "no-store" in answer["Cache-Control"]
    for secret in site.secrets():
        assert secret not in answer.content.decode()


class Markup(HTMLParser):
    """Collects what a strict Content-Security-Policy would not let work, and the landmarks of a page."""

    def __init__(self):
        super().__init__()
        self.inline, self.tags, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag in ("style", "script") else []


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("populated", [False, True])
def test_pages_work_under_the_strict_policy_and_have_their_landmarks(staff, page, populated):
    if populated:
        populate()
    answer = staff.get(reverse(page))
    assert "unsafe" not in answer["Content-Security-Policy"]
    markup = Markup()
    markup.feed(answer.content.decode())
    assert markup.inline == []
    assert {"header", "nav", "main", "h1"} <= set(markup.tags)
    assert len(markup.ids) == len(set(markup.ids))


def test_only_the_first_page_refreshes_itself(staff):
    assert '<meta http-equiv="refresh" content="5">' in text_of(staff, "console:overview")
    assert "refresh" not in text_of(staff, "console:devices")


def test_the_style_sheet_is_there_for_both_schemes_and_small_screens(staff):
    assert "/static/console.css" in text_of(staff, "console:overview")
    assert 'content="width=device-width' in text_of(staff, "console:overview")
    with open(finders.find("console.css"), encoding="utf-8") as file:  # noqa: PTH123 - the finder gives a string
        assert "prefers-color-scheme: dark" in file.read()


def test_an_empty_site_says_what_to_do_next(staff):
    page = text_of(staff, "console:overview")
    assert "manage.py create_federation" in page
    assert reverse("admin:enrollment_enrolmenttoken_issue") in page
    assert "No round has needed an enclave yet" in page
    assert "signed in" in page
    assert reverse("admin:enrollment_enrolmenttoken_issue") in text_of(staff, "console:devices")
    assert "There is no checkpoint yet" in text_of(staff, "console:status")


def test_the_first_page_says_what_runs(staff):
    populate(now=timezone.now())
    words = words_of(text_of(staff, "console:overview"))
    assert re.search(r"Round 2: Open 0 of 4 updates, 5\d\d s left", words)
    assert "4 Active 0 Suspended 0 Revoked" in words
    assert "1 Completed 4 4 3 1 0.875" in words
    assert "edge-0 digits 1 cosine-too-small" in words
    assert "Device edge-9 suspended: lost &amp; found operator:olga" in words


def test_the_enclave_is_shown_with_what_its_tier_leaves_open(staff):
    populate()
    words = words_of(text_of(staff, "console:overview"))
    assert "software evidence, tier warning" in words
    assert "whoever is root on the enclave host can forge it" in words
    assert "The kernel did not give seccomp." in words


def test_every_accuracy_of_the_plot_is_in_the_table_beneath(staff):
    for number in range(4):
        make_device(f"edge-{number}")
    federation = make_federation()
    for accuracy in (0.25, 0.5, 0.875):
        make_completed_round(federation, rejected="", accuracy=accuracy)
        federation.refresh_from_db()
    page = text_of(staff, "console:overview")
    plot, table = page.index("<svg"), page.index("<table")
    assert plot < table
    for shown in ("0.250", "0.500", "0.875"):
        assert f"{shown}</title>" in page[plot:table]
        assert f">{shown}</td>" in page[table:]


def test_a_failed_or_cancelled_round_shows_its_reason(staff):
    site = populate()
    cancel_round(site.running.id, reason="wrong <data>", actor="operator:olga", now=timezone.now())
    page = text_of(staff, "console:overview")
    assert "wrong &lt;data&gt;" in page
    assert "No round runs." in page


def test_devices_are_listed_with_what_came_of_their_updates(staff):
    populate()
    Device.objects.filter(name="edge-1").update(last_seen_at=timezone.now() - timedelta(minutes=3))
    words = words_of(text_of(staff, "console:devices"))
    assert "edge-0 ward Active never 2 0 1" in words
    assert "edge-1 ward Active 3" in words


def test_many_devices_come_by_pages(staff, monkeypatch):
    monkeypatch.setattr(device_pages, "DEVICES_PER_PAGE", 2)
    for number in range(3):
        make_device(f"edge-{number}")
    first = text_of(staff, "console:devices")
    assert "edge-1" in first
    assert "edge-2" not in first
    for last in ("2", "99"):
        assert "edge-2" in staff.get(reverse("console:devices"), {"page": last}).content.decode()
    assert "edge-0" in staff.get(reverse("console:devices"), {"page": "x"}).content.decode()


def test_the_status_page_shows_health_suites_engines_settings_and_log(staff):
    site = populate()
    words = words_of(text_of(staff, "console:status"))
    assert "evidence ok The newest enclave gave software evidence, appraised as warning." in words
    assert "QF1-F640 in use FrodoKEM-640-AES" in words
    assert "ML-DSA-44 (Dilithium2) signature cryptography" in words
    assert "SECRET_KEY set, not shown" in words
    assert "Last checkpoint:" in words
    assert str(site.session.id) not in words


def test_the_query_count_of_no_page_grows_with_the_site(staff, django_assert_max_num_queries):
    populate()
    for number in range(3):
        federation = make_federation(f"more-{number}", group="ward")
        make_completed_round(federation, rejected="edge-1", accuracy=0.5)
        federation.refresh_from_db()
        open_for_updates(open_round(federation.id, actor="operator:olga", now=timezone.now()), now=timezone.now())
    for page, most in zip(PAGES, (10, 4, 14), strict=True):
        with django_assert_max_num_queries(most):
            staff.get(reverse(page))


def test_the_overview_shows_the_incidents_that_nobody_has_closed(staff):
    populate()
    words = words_of(text_of(staff, "console:overview"))
    assert "log-fork: the log Critical Open 1 2026-03-01 12:00:00" in words
    incident = Incident.objects.get()
    close_incident(incident.id, note="a drill", actor="operator:olga", now=timezone.now())
    assert "Nothing waits for you." in words_of(text_of(staff, "console:overview"))
