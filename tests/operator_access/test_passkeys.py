"""Passkeys: enrolled, asked for after the password or instead of it; of no worth when signed for another site."""

import pytest
from allauth.mfa.models import Authenticator
from django.urls import reverse

from operator_access.roles import Role
from tests.operator_access.conftest import Browser, person, told
from tests.operator_access.passkey import Passkey


@pytest.fixture
def passkey():
    return Passkey()


def enrol(browser, passkey):
    page = reverse("mfa_add_webauthn")
    options = browser.get(page).context["js_data"]
    return browser.post(page, {"name": "office", "credential": passkey.register(options)})


@pytest.fixture
def enrolled(passkey):
    """The browser in which olga has enrolled a passkey and nothing else."""
    person("olga", Role.OPERATOR)
    browser = Browser()
    browser.give_password("olga")
    assert enrol(browser, passkey)["Location"] == reverse("mfa_view_recovery_codes")
    return browser


def opens(browser):
    return browser.get(reverse("console:overview")).status_code == 200


def test_a_passkey_is_a_second_factor(enrolled):
    assert opens(enrolled)
    assert told("operator.factor_enrolled")[0] == "Operator olga enrolled a second factor: passkey office"


def test_it_is_asked_for_after_the_password(enrolled, passkey):
    browser, page = Browser(), reverse("mfa_authenticate")
    browser.give_password("olga")
    browser.post(page, {"credential": passkey.sign(browser.get(page).context["js_data"])})
    assert opens(browser)


def begin(browser):
    return browser.get(reverse("mfa_login_webauthn"), headers={"Accept": "application/json"}).json()


def test_it_stands_for_name_and_password_too(enrolled, passkey):
    browser = Browser()
    browser.post(reverse("mfa_login_webauthn"), {"credential": passkey.sign(begin(browser))})
    assert opens(browser)
    assert "Operator olga signed in" in told("operator.signed_in")


@pytest.mark.parametrize("origin", ["https://qflare.example", "http://testserver", "https://testserver.evil.example"])
def test_what_was_signed_for_another_site_lets_nobody_in(enrolled, passkey, origin):
    browser = Browser()
    browser.post(reverse("mfa_login_webauthn"), {"credential": passkey.sign(begin(browser), origin=origin)})
    assert not opens(browser)


def test_an_answer_is_taken_once(enrolled, passkey):
    browser, other = Browser(), Browser()
    answer = passkey.sign(begin(browser))
    begin(other)
    other.post(reverse("mfa_login_webauthn"), {"credential": answer})
    assert not opens(other)


def test_another_key_of_the_same_name_lets_nobody_in(enrolled, passkey):
    stranger, browser = Passkey(), Browser()
    stranger._id, stranger._owner = passkey._id, passkey._owner
    page = reverse("mfa_authenticate")
    browser.give_password("olga")
    browser.post(page, {"credential": stranger.sign(browser.get(page).context["js_data"])})
    assert not opens(browser)
    assert told("operator.second_factor_failed") == ["A second factor of olga was wrong"]


def test_somebody_kept_out_is_not_let_in_by_a_passkey(enrolled, passkey):
    owner = Authenticator.objects.first().user
    owner.is_active = False
    owner.save()
    browser = Browser()
    browser.post(reverse("mfa_login_webauthn"), {"credential": passkey.sign(begin(browser))})
    assert not opens(browser)


def test_it_makes_a_stale_sign_in_fresh(enrolled, passkey):
    enrolled.sits_idle(301)
    page = reverse("mfa_reauthenticate_webauthn")
    options = enrolled.get(page).context["js_data"]
    enrolled.post(page, {"credential": passkey.sign(options), "next": "/"})
    assert enrolled.get(reverse("mfa_add_webauthn")).status_code == 200


def test_a_removed_passkey_lets_nobody_in(enrolled, passkey):
    key = Authenticator.objects.get(type=Authenticator.Type.WEBAUTHN)
    enrolled.post(reverse("mfa_remove_webauthn", args=(key.pk,)))
    browser = Browser()
    browser.post(reverse("mfa_login_webauthn"), {"credential": passkey.sign(begin(browser))})
    assert not opens(browser)
    assert "Operator olga removed a second factor: passkey office" in told("operator.factor_removed")


def test_a_new_key_has_a_plain_name(enrolled):
    assert enrolled.get(reverse("mfa_add_webauthn")).context["form"].initial["name"] == "passkey 2"
