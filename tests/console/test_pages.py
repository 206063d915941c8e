"""The console's screens: who sees them, what they say, and what they never say."""

import re
import uuid
from datetime import timedelta
from html.parser import HTMLParser

import pytest
import time_machine
from django.contrib.staticfiles import finders
from django.urls import reverse
from django.utils import timezone

from devices.models import Device, DeviceState
from enrollment.models import EnrolmentToken
from monitor.models import Incident
from monitor.services.incidents import close_incident
from qflare_site.console import listing, rounds
from tests.admin.conftest import signed_in
from tests.factories import (
    make_completed_round,
    make_device,
    make_federation,
    make_user,
    open_for_updates,
    populate,
)
from training.models import Federation, ModelVersion, Participation, Round
from training.services.rounds import cancel_round, open_round

LISTS = ("devices", "enrolment", "sessions", "federations", "rounds", "incidents", "system", "federation-new")
SCREENS = ("overview", *LISTS)

pytestmark = pytest.mark.django_db


def address(name, row=None):
    return reverse(f"console:{name}", args=(row.pk,) if row else ())


def every_address():
    rows = {"device": Device, "federation": Federation, "round": Round}
    return [address(name) for name in SCREENS] + [
        address(name, row) for name, model in rows.items() for row in model.objects.all()
    ]


def text_of(client, page):
    answer = client.get(page)
    assert answer.status_code == 200
    return answer.content.decode()


def words_of(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize("name", SCREENS)
def test_strangers_and_visitors_are_sent_to_the_login(client, visitor, name):
    for browser in (client, visitor):
        answer = browser.get(address(name))
        assert answer.status_code == 302
        assert "login" in answer["Location"]


def test_a_newcomer_without_permissions_sees_the_overview_and_nothing_on_it(newcomer):
    populate()
    words = words_of(text_of(newcomer, address("overview")))
    assert "Health" in words
    assert not {"digits", "edge-0", "olga"} & set(words.split())
    for one in every_address():
        assert newcomer.get(one).status_code == (200 if one == "/" else 403)


@pytest.mark.parametrize("name", [name for name in SCREENS if name != "federation-new"])
def test_screens_that_look_are_only_read(staff, name):
    assert staff.post(address(name)).status_code == 405


def test_no_screen_shows_a_secret_and_none_is_cached(staff):
    site = populate()
    for one in every_address():
        answer = staff.get(one)
        assert "no-store" in answer["Cache-Control"]
        for secret in site.secrets():
            assert secret not in answer.content.decode()


class Markup(HTMLParser):
    """Collects the landmarks of a page, its ids, and handlers that no policy should have to let work."""

    def __init__(self):
        super().__init__()
        self.handlers, self.tags, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if re.match(r"on[a-z]+$", name)]


@pytest.mark.parametrize("populated", [False, True])
def test_every_screen_has_its_landmarks_one_heading_and_no_id_twice(staff, populated):
    if populated:
        populate()
    for one in every_address():
        markup = Markup()
        markup.feed(text_of(staff, one))
        assert markup.handlers == []
        assert {"nav", "main"} <= set(markup.tags)
        assert markup.tags.count("h1") == 1
        assert len(markup.ids) == len(set(markup.ids)), one


def test_only_screens_in_the_theme_get_its_wider_policy(staff):
    assert "'unsafe-eval'" in staff.get("/")["Content-Security-Policy"]
    for other in ("/health", "/api/schema", "/docs/api"):
        assert "unsafe" not in staff.get(other)["Content-Security-Policy"]
    assert "script-src 'self'" in staff.get("/")["Content-Security-Policy"]


def test_what_a_screen_loads_is_served_from_here(staff):
    page = text_of(staff, "/")
    assert re.findall(r'(?:src|href)="(?:https?:)?//', page) == []
    for name in ("console.css", "console.js"):
        assert f"/static/{name}" in page
        assert finders.find(name)


def test_an_empty_site_says_what_to_do_next(staff):
    page = text_of(staff, "/")
    assert "manage.py create_federation" in page
    assert reverse("admin:enrollment_enrolmenttoken_issue") in page
    assert "No round has needed an enclave yet" in page
    assert "signed in" in page
    expected = {
        "devices": "No device is enrolled", "enrolment": "No token has been issued", "sessions": "No device has opened",
        "federations": "There is no federation yet", "rounds": "No round has been opened",
        "incidents": "The monitor has found nothing", "system": "There is no checkpoint yet",
    }  # fmt: skip
    for name, told in expected.items():
        assert told in text_of(staff, address(name))


def test_the_first_screen_says_what_runs(staff):
    populate(now=timezone.now())
    words = words_of(text_of(staff, "/"))
    assert "Round 2 : Open 0 of 4 updates, waits until" in words
    assert "4 Active 0 Suspended 0 Revoked" in words
    assert "Round 1 aggregated, 4 of 4 devices returned, 1 rejected: cosine too small." in words
    assert "Held-out accuracy 0.875 after round 1." in words
    assert "edge-0 in digits round 1 : cosine too small" in words
    assert "Device edge-9 suspended: lost &amp; found" in words


def test_the_enclave_is_shown_with_what_its_tier_leaves_open(staff):
    populate()
    words = words_of(text_of(staff, "/"))
    assert "software evidence, tier warning" in words
    assert "whoever is root on the enclave host can forge it" in words
    assert "The kernel did not give seccomp." in words


def test_the_overview_shows_the_incidents_that_nobody_has_closed(staff):
    populate()
    assert "Critical log-fork: the log" in words_of(text_of(staff, "/"))
    incident = Incident.objects.get()
    close_incident(incident.id, note="a drill", actor="operator:olga", now=timezone.now())
    assert "Nothing waits for you." in words_of(text_of(staff, "/"))
    assert "Closed a drill" in words_of(text_of(staff, address("incidents")))


def test_devices_that_somebody_should_look_at_are_named_with_the_reason(staff):
    populate(now=timezone.now())
    Device.objects.update(keys_due_at=timezone.now() + timedelta(days=90))
    Device.objects.filter(name="edge-1").update(state=DeviceState.SUSPENDED)
    Device.objects.filter(name="edge-2").update(keys_due_at=timezone.now() + timedelta(days=2))
    Device.objects.filter(name="edge-3").update(last_seen_at=timezone.now() - timedelta(days=3))
    words = words_of(text_of(staff, "/?panel=fleet"))
    assert re.search(r"edge-1 suspended", words)
    assert re.search(r"edge-2 its keys are due within a week", words)
    assert re.search(r"edge-3 silent for more than a day", words)


def test_a_failed_or_cancelled_round_shows_its_reason(staff):
    site = populate()
    cancel_round(site.running.id, reason="wrong <data>", actor="operator:olga", now=timezone.now())
    page = text_of(staff, "/")
    assert "wrong &lt;data&gt;" in page
    assert "No round runs." in page


def test_devices_are_listed_with_what_came_of_their_updates(staff):
    populate()
    Device.objects.filter(name="edge-1").update(last_seen_at=timezone.now() - timedelta(minutes=3))
    words = words_of(text_of(staff, address("devices")))
    assert "edge-0 ward Active QF1-F640 never 2 0 1" in words
    assert "edge-1 ward Active QF1-F640 3" in words


def test_a_list_is_narrowed_by_its_address(staff):
    populate()
    Device.objects.filter(name="edge-1").update(state=DeviceState.SUSPENDED)
    page = words_of(text_of(staff, address("devices") + "?state=suspended"))
    assert "edge-1" in page
    assert "edge-0" not in page
    assert "edge-0" in words_of(text_of(staff, address("devices") + "?search=dge-0"))
    assert "No device is like that" in words_of(text_of(staff, address("devices") + "?search=nobody"))
    assert "edge-0" in words_of(text_of(staff, address("devices") + "?state=happy"))
    EnrolmentToken.objects.update(issued_at=timezone.now(), expires_at=timezone.now() + timedelta(hours=1))
    assert "edge-new" in text_of(staff, address("enrolment") + "?state=unused")
    assert "No token is like that" in text_of(staff, address("enrolment") + "?state=used")


def test_many_devices_come_by_pages_that_keep_the_filters(staff, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_PER_PAGE", 2)
    for number in range(3):
        make_device(f"edge-{number}")
    first = text_of(staff, address("devices") + "?state=active")
    assert "edge-1" in first
    assert "edge-2" not in first
    assert '"?state=active&amp;page=2"' in first
    assert "edge-2" in text_of(staff, address("devices") + "?page=2")
    for page in ("x", "0", "-1", "99999999999999999999", "%00"):
        assert staff.get(address("devices") + f"?page={page}&search=%00").status_code == 200


def test_a_device_shows_keys_rounds_sessions_and_what_was_done_to_it(staff):
    populate()
    words = words_of(text_of(staff, address("device", Device.objects.get(name="edge-0"))))
    assert "Key encapsulation 1, FrodoKEM-640-AES Current" in words
    assert "digits 1 Rejected cosine too small" in words
    assert "2 invited 0 Accepted 1 Rejected" in words
    assert "Device edge-1" not in words


@pytest.mark.parametrize(
    ("state", "offered", "kept_back"),
    [("active", "Suspend", "Resume"), ("suspended", "Resume", "Suspend"), ("revoked", "Label", "Revoke")],
)
def test_a_device_offers_what_its_state_allows(staff, state, offered, kept_back):
    device = make_device("edge-0")
    Device.objects.filter(id=device.id).update(state=state)
    page = text_of(staff, address("device", device))
    assert f">{offered}</a>" in page
    assert f">{kept_back}</a>" not in page


def test_a_round_shows_phases_participants_defence_and_result(staff):
    populate()
    words = words_of(text_of(staff, address("round", Round.objects.get(number=1))))
    assert "Round 1 aggregated, 4 of 4 devices returned, 1 rejected: cosine too small." in words
    assert "Aggregating 1.5 s" in words
    assert words.index("edge-0 Rejected") < words.index("edge-1 Accepted")
    assert "Rule: weighted-mean FedAvg: the mean weighted by claimed sample counts." in words
    assert "aggregates no fewer than 3" in words
    assert "version 1 , 96 B" in words


def test_the_signed_result_of_a_round_is_handed_out(staff):
    populate()
    done, running = Round.objects.order_by("number")
    answer = staff.get(reverse("console:round-result", args=(done.id,)))
    assert answer.content == bytes(done.resulting_version.provenance)
    assert answer["Content-Disposition"] == 'attachment; filename="digits-round-1.cose"'
    assert staff.get(reverse("console:round-result", args=(running.id,))).status_code == 404


def test_what_is_not_there_is_not_found(staff):
    for name in ("device", "federation", "round", "round-result"):
        assert staff.get(reverse(f"console:{name}", args=(uuid.uuid4(),))).status_code == 404


def test_a_federation_shows_its_rounds_and_explains_its_policy(staff):
    populate()
    words = words_of(text_of(staff, address("federation", Federation.objects.get())))
    assert "Round 1 aggregated" in words
    assert "norm-bound ratio=3.0" in words
    assert "Leaves out every update whose norm is above" in words


def test_the_system_screen_shows_health_suites_engines_settings_and_log(staff):
    site = populate()
    words = words_of(text_of(staff, address("system")))
    assert "evidence ok The newest enclave gave software evidence, appraised as warning." in words
    assert "QF1-F640 in use FrodoKEM-640-AES" in words
    assert "ML-DSA-44 (Dilithium2) signature cryptography" in words
    assert "SECRET_KEY set, not shown" in words
    assert "Signed up to entry" in words
    assert str(site.session.id) not in words


def test_the_query_count_of_no_screen_grows_with_the_site(staff, django_assert_max_num_queries):
    populate()
    for number in range(3):
        federation = make_federation(f"more-{number}", group="ward")
        make_completed_round(federation, rejected="edge-1", accuracy=0.5)
        federation.refresh_from_db()
        open_for_updates(open_round(federation.id, actor="operator:olga", now=timezone.now()), now=timezone.now())
    for one in every_address():
        with django_assert_max_num_queries(46 if one == "/" else 34):
            staff.get(one)


def test_a_panel_is_answered_alone_and_not_again_while_it_stays_the_same(staff):
    populate()
    page = text_of(staff, "/?panel=rejections")
    assert page.startswith('<div id="panel-rejections"')
    digest = re.search(r'data-digest="([0-9a-f]+)"', page)[1]
    same = staff.get("/", {"panel": "rejections", "seen": digest})
    assert (same.status_code, same.content) == (204, b"")
    make_completed_round(make_federation("more", group="ward"), rejected="edge-1", accuracy=0.5)
    assert staff.get("/", {"panel": "rejections", "seen": digest}).status_code == 200
    assert staff.get("/", {"panel": "nothing"}).status_code == 404


def test_panels_of_a_round_are_polled_until_it_has_ended(staff):
    site = populate()
    panel = address("round", site.running) + "?panel="
    for name in ("progress", "participants", "scatter", "defence", "result"):
        assert "data-live" in text_of(staff, panel + name)
    cancel_round(site.running.id, reason="a test", actor="operator:olga", now=timezone.now())
    for name in ("progress", "participants", "scatter", "defence", "result"):
        assert "data-live" not in text_of(staff, panel + name)


def test_the_sidebar_names_the_screens_that_an_operator_may_see(staff, newcomer):
    seen, hidden = text_of(staff, "/"), text_of(newcomer, "/")
    for name in LISTS[:-1]:
        link = f'href="{address(name)}"'
        assert link in seen
        assert link not in hidden


def test_a_panel_says_that_it_is_one_and_is_the_same_however_long_ago_its_times_are(staff):
    populate(now=timezone.now() - timedelta(seconds=100))
    answer = staff.get("/", {"panel": "rejections"})
    assert answer["X-Console-Panel"] == "rejections"
    digest = re.search(r'data-digest="([0-9a-f]+)"', answer.content.decode())[1]
    with time_machine.travel(timezone.now() + timedelta(hours=3), tick=False):
        assert staff.get("/", {"panel": "rejections", "seen": digest}).status_code == 204


def test_names_that_a_template_would_take_for_its_own_do_no_harm(staff):
    site = populate()
    Device.objects.update(labels={"items": "ward", "keys": "x"})
    Federation.objects.update(selection_labels={"items": "ward"})
    ModelVersion.objects.update(metrics={"items": 3.0, "accuracy": 0.5})
    for one in (address("device", site.devices[0]), address("federation", site.federation)):
        assert "items=ward" in text_of(staff, one)
    assert "<dt>items</dt><dd>3.0000</dd>" in text_of(staff, address("round", site.completed))


def test_rejected_participants_come_first_however_many_there_are(staff, monkeypatch):
    site = populate()
    monkeypatch.setattr(rounds, "PARTICIPANTS_SHOWN", 2)
    Participation.objects.filter(round=site.completed).update(state="accepted", reason="")
    Participation.objects.filter(round=site.completed, device__name="edge-3").update(state="rejected", reason="late")
    words = words_of(text_of(staff, address("round", site.completed) + "?panel=participants"))
    assert words.index("edge-3") < words.index("edge-0")
    assert "edge-1" not in words
    assert "These are the first" in words


def test_what_an_operator_may_not_see_is_on_no_device(staff):
    site = populate()
    viewer = signed_in(make_user("vera", "view_device", "view_participation"))
    words = words_of(text_of(viewer, address("device", site.devices[0])))
    assert "Public keys" in words
    for hidden in ("History", "Incidents", "Last sessions"):
        assert hidden not in words
    assert viewer.get(address("device", site.devices[0]), {"panel": "history"}).status_code == 404
