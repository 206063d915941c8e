"""The page of operators and access: who sees it, what it says, and who lifts a lock-out."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from operator_access.roles import Role
from operator_api.scopes import Scope
from operator_api.services import create_key
from tests.console.test_pages import Markup, words_of
from tests.factories import make_device, populate
from tests.operator_access.conftest import Browser, person, told

PAGE = "console:access"


def words(browser):
    return words_of(browser.get(reverse(PAGE)).content.decode())


@pytest.mark.parametrize(
    ("role", "status"),
    [(Role.VIEWER, 403), (Role.OPERATOR, 403), (Role.SECURITY_OFFICER, 200), (Role.AUDITOR, 200)],
)
def test_officers_and_auditors_see_it(role, status):
    person("rose", role)
    assert Browser().sign_in("rose").get(reverse(PAGE)).status_code == status


def test_a_stranger_is_sent_to_the_sign_in(client):
    assert "login" in client.get(reverse(PAGE))["Location"]


def test_people_are_shown_with_roles_and_factors(sam, olga):
    text = words(sam)
    assert "olga active Operator authenticator app since" in text
    assert "recovery codes since" in text
    person("eve", Role.VIEWER)
    assert "eve active Viewer none never" in words(sam)


def test_keys_are_shown_without_their_text(sam):
    populate()
    text = words(sam)
    assert "a-script" in text
    assert "devices:read" in text
    assert "qfk_" not in text


def test_a_key_whose_maker_is_gone_is_not_called_live(sam):
    maker = person("rose", Role.SECURITY_OFFICER)
    terms = {"scopes": [Scope.DEVICES_READ], "lifetime": timedelta(days=1), "actor": "operator:rose"}
    create_key("a-script", now=timezone.now(), maker=maker, **terms)
    assert "its maker is gone" not in words(sam)
    maker.groups.clear()
    User.objects.filter(pk=maker.pk).update(is_staff=False)
    assert "its maker is gone" in words(sam)


def test_what_waits_for_a_second_person_is_named(sam, settings):
    settings.QFLARE_SECOND_PERSON = ["revoke"]
    assert "It takes two to: revoke." in words(sam)
    page = reverse("admin:devices_device_revoke", args=(make_device("edge-1").pk,))
    sam.post(page, {"confirmed": "yes", "reason": "x"})
    assert "Revoke: edge-1 operator:sam" in words(sam)


def test_it_has_no_handlers_and_is_not_kept(sam):
    populate()
    answer = sam.get(reverse(PAGE))
    markup = Markup()
    markup.feed(answer.content.decode())
    assert markup.handlers == []
    assert len(markup.ids) == len(set(markup.ids))
    assert "no-store" in answer["Cache-Control"]


def test_more_people_take_no_more_queries(sam):
    def queries():
        with CaptureQueriesContext(
            connection,
        ) as taken:
            sam.get(reverse(PAGE))
        return len(taken)

    few = queries()
    for number in range(5):
        person(f"person-{number}", Role.VIEWER)
    assert queries() == few


@pytest.fixture
def locked(olga):
    """Lock olga out by wrong passwords."""
    for _ in range(5):
        Browser().give_password("olga", "not the password")
    return olga


def unlock(browser, name="olga"):
    return browser.post(reverse("console:unlock"), {"name": name}, follow=True).content.decode()


def test_a_lock_out_is_shown_and_lifted(sam, locked):
    assert "olga 127.0.0.1 5" in words(sam)
    assert "Location" not in Browser().give_password("olga")
    assert "is unlocked" in unlock(sam)
    assert Browser().give_password("olga")["Location"] == reverse("mfa_authenticate")
    assert told("operator.unlocked") == ["The sign-in as olga was unlocked; 6 failed attempts are forgotten"]


def test_locked_codes_are_shown_and_unlocked(sam, olga):
    door = Browser()
    door.give_password("olga")
    for _ in range(6):
        door.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert "codes locked" in words(sam)
    unlock(sam)
    assert "codes locked" not in words(sam)
    assert door.post(reverse("mfa_authenticate"), {"code": olga.next_code()}).status_code == 302


@pytest.mark.parametrize("name", ["", "nobody", "eve", "x\0y"])
def test_there_is_nothing_to_unlock(sam, name):
    person("eve", Role.VIEWER)
    assert "is not locked" in unlock(sam, name)
    assert told("operator.unlocked") == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.AUDITOR])
def test_others_lift_no_lock_out(locked, role):
    person("rose", role)
    assert Browser().sign_in("rose").post(reverse("console:unlock"), {"name": "olga"}).status_code == 403


def test_a_stale_sign_in_lifts_no_lock_out(sam, locked):
    sam.sits_idle(301)
    assert sam.post(reverse("console:unlock"), {"name": "olga"})["Location"].startswith("/accounts/reauthenticate/")
    assert told("operator.unlocked") == []


def test_the_page_opens_although_the_counters_are_out_of_reach(sam, monkeypatch):
    def down(*arguments, **options):
        raise OSError("gone")

    monkeypatch.setattr(caches["ratelimit"], "get_many", down)
    assert sam.get(reverse(PAGE)).status_code == 200


def test_the_counters_of_all_people_are_asked_for_at_once(sam, monkeypatch):
    people = [person(f"person-{number}", Role.VIEWER) for number in range(3)]
    asked = []
    monkeypatch.setattr(caches["ratelimit"], "get_many", lambda keys: asked.append(set(keys)) or {})
    words(sam)
    assert len(asked) == 1
    assert len(asked[0]) == len(people) + 1
