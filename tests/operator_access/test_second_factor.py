"""The second factor: nobody is let in without it, and nobody guesses it."""

import json
from datetime import UTC, datetime

import pytest
import time_machine
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import CommandError, call_command
from django.urls import get_resolver, reverse

from keyring.columns import wrapped_columns
from keyring.kek import KekError
from operator_access.middleware import WITHOUT_SIGN_IN
from operator_access.models import FactorSecret
from operator_access.roles import Role
from operator_access.urls import SHOWING
from tests.operator_access.conftest import PASSWORD, Browser, code_of, person, told

PAGES = ["console:overview", "console:devices", "console:federations", "admin:index", "admin:devices_device_changelist"]
WITHIN_A_MINUTE = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
"""Requests are counted by minutes: a test that goes on in the next one would be let in again."""


@pytest.fixture
def newcomer():
    person("olga", Role.OPERATOR)
    browser = Browser()
    browser.give_password("olga")
    return browser


@pytest.mark.parametrize("page", PAGES)
def test_without_a_second_factor_every_page_leads_to_enrolment(newcomer, page):
    answer = newcomer.get(reverse(page))
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("mfa_index"))


def test_posting_without_a_second_factor_does_nothing(newcomer):
    answer = newcomer.post(reverse("admin:enrollment_enrolmenttoken_issue"), {"count": "1"})
    assert answer["Location"].startswith(reverse("mfa_index"))
    assert told("token.issued") == []


@pytest.mark.parametrize("address", ["/health/live", "/api/schema", "/log/checkpoint"])
def test_what_asks_for_no_sign_in_stays_open(newcomer, address):
    assert newcomer.get(address).status_code in (200, 404)


def test_the_site_may_be_told_to_go_without(newcomer, settings):
    settings.QFLARE_REQUIRE_SECOND_FACTOR = False
    assert newcomer.get(reverse("console:overview")).status_code == 200


def test_an_enrolled_app_opens_the_site_and_shows_recovery_codes_once(newcomer):
    answer = newcomer.enrol_app()
    assert answer["Location"] == reverse("mfa_view_recovery_codes")
    first, second = newcomer.get(answer["Location"]), newcomer.get(answer["Location"])
    codes = first.context["unused_codes"]
    assert len(set(codes)) == 10
    assert not [code for code in codes if code in second.content.decode()]
    assert newcomer.get(reverse("console:overview")).status_code == 200
    assert told("operator.factor_enrolled") == [
        "Operator olga enrolled a second factor: authenticator app",
        "Operator olga enrolled a second factor: recovery codes",
    ]


def test_a_wrong_first_code_enrols_nothing(newcomer):
    newcomer.get(reverse("mfa_activate_totp"))
    assert newcomer.post(reverse("mfa_activate_totp"), {"code": "000000"}).status_code == 200
    assert not Authenticator.objects.exists()


def test_after_a_wrong_first_code_the_right_one_of_the_same_secret_enrols(newcomer):
    secret = newcomer.get(reverse("mfa_activate_totp")).context["form"].secret
    again = newcomer.post(reverse("mfa_activate_totp"), {"code": "000000"})
    assert again.context["form"].secret == secret
    assert newcomer.post(reverse("mfa_activate_totp"), {"code": code_of(secret)}).status_code == 302


def test_a_code_for_a_secret_that_is_gone_enrols_nothing(newcomer):
    secret = newcomer.get(reverse("mfa_activate_totp")).context["form"].secret
    FactorSecret.objects.all().delete()
    assert newcomer.post(reverse("mfa_activate_totp"), {"code": code_of(secret)}).status_code == 200
    assert not Authenticator.objects.exists()


def test_pages_with_secrets_are_kept_by_nobody_and_work_under_the_strict_policy(newcomer):
    answer = newcomer.get(reverse("mfa_activate_totp"))
    assert "no-store" in answer["Cache-Control"]
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert "style=" not in answer.content.decode()


def test_no_secret_of_a_factor_rests_in_the_clear(newcomer):
    newcomer.get(reverse("mfa_activate_totp"))
    newcomer.enrol_app()
    rows = [json.dumps(data) for data in Authenticator.objects.values_list("data", flat=True)]
    rows += [str(session.get_decoded()) for session in Session.objects.all()]
    rows += [repr(bytes(secret.wrapped_secret)) for secret in FactorSecret.objects.all()]
    assert not [row for row in rows if newcomer.secret in row]
    assert FactorSecret.objects.count() == 2  # the app's and the recovery codes'; what was not enrolled is gone


def test_the_keyring_knows_the_secrets_and_rewraps_them(newcomer):
    newcomer.enrol_app()
    (column,) = [column for column in wrapped_columns() if column.table == "operator_access_factorsecret"]
    assert sum(column.counts().values()) == 2
    row = FactorSecret.objects.first()
    assert column.bound_to(row) == f"{row.user_id}/{row.pk}"


@pytest.fixture
def enrolled(newcomer):
    newcomer.enrol_app()
    return newcomer


@pytest.fixture
def at_the_door(enrolled):
    """A browser in which the password was given and no code yet."""
    browser = Browser()
    browser.secret = enrolled.secret
    browser.give_password("olga")
    return browser


def in_another_process():
    """Forget what this process alone remembers; Redis is every process's, and remembers."""
    if isinstance(caches["default"], LocMemCache):
        caches["default"].clear()


def give(browser, code):
    return browser.post(reverse("mfa_authenticate"), {"code": code})


def test_the_password_alone_opens_nothing(at_the_door):
    answer = at_the_door.get(reverse("console:overview"))
    assert "/login/" in answer["Location"]
    assert "_auth_user_id" not in at_the_door.session


def test_the_code_lets_in(at_the_door):
    assert give(at_the_door, code_of(at_the_door.secret)).status_code == 302
    assert at_the_door.get(reverse("console:overview")).status_code == 200


def test_the_code_that_enrolled_an_app_lets_nobody_in(at_the_door, enrolled):
    in_another_process()
    assert "Incorrect code" in give(at_the_door, code_of(enrolled.secret, later=enrolled.periods_used)).content.decode()


def test_where_codes_cannot_be_counted_no_app_is_enrolled(newcomer, monkeypatch):
    counters_down(monkeypatch)
    assert "cannot be checked at the moment" in newcomer.enrol_app().content.decode()
    assert not Authenticator.objects.exists()


@pytest.mark.parametrize("spelling", ["{}", "{0[0]}{0[1]}{0[2]} {0[3]}{0[4]}{0[5]}", "-{}-"])
def test_a_code_that_was_used_is_refused_however_it_is_written(at_the_door, spelling):
    code = code_of(at_the_door.secret)
    give(at_the_door, code)
    in_another_process()
    other = Browser()
    other.give_password("olga")
    assert "Incorrect code" in give(other, spelling.format(code)).content.decode()
    assert told("operator.second_factor_failed") == ["A second factor of olga was wrong"]


def test_guessing_ends_after_a_few_wrong_codes_for_every_process(at_the_door):
    for _ in range(5):
        give(at_the_door, "000000")
        in_another_process()
    answer = give(at_the_door, code_of(at_the_door.secret))
    assert "Too many codes were wrong" in answer.content.decode()
    assert len(told("operator.second_factor_failed")) == 5


def test_a_right_code_forgets_the_wrong_ones(at_the_door):
    for _ in range(4):
        give(at_the_door, "000000")
    assert give(at_the_door, code_of(at_the_door.secret)).status_code == 302
    other = Browser()
    other.give_password("olga")
    assert "Incorrect code" in give(other, "000000").content.decode()


def counters_down(monkeypatch):
    def down(*arguments, **options):
        raise OSError("the disk is full")

    for name in ("add", "incr"):
        monkeypatch.setattr(caches["ratelimit"], name, down)


def test_where_codes_cannot_be_counted_none_is_taken(enrolled, monkeypatch):
    enrolled.sits_idle(301)
    counters_down(monkeypatch)
    answer = enrolled.post(reverse("mfa_reauthenticate"), {"code": enrolled.next_code()})
    assert "cannot be checked at the moment" in answer.content.decode()


@pytest.mark.parametrize(("page", "fields"), [
    ("account_login", {"login": "olga", "password": PASSWORD}), ("mfa_authenticate", {"code": "000000"}),
    ("mfa_login_webauthn", {}),
])  # fmt: skip
def test_where_sign_ins_cannot_be_counted_nobody_signs_in(at_the_door, monkeypatch, page, fields):
    counters_down(monkeypatch)
    answer = at_the_door.post(reverse(page), fields)
    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    assert "cannot be counted at the moment" in answer.content.decode()
    assert told("operator.second_factor_failed", "operator.sign_in_failed") == []


def test_a_recovery_code_lets_in_once(enrolled):
    codes = enrolled.get(reverse("mfa_view_recovery_codes")).context["unused_codes"]
    for expected in (302, 200):
        browser = Browser()
        browser.give_password("olga")
        assert give(browser, codes[0]).status_code == expected
    assert told("operator.recovery_code_used") == ["Operator olga used a recovery code; 9 are left"]


def test_a_session_from_before_the_factor_has_to_show_it(newcomer):
    stolen = Browser()
    stolen.give_password("olga")
    newcomer.enrol_app()
    answer = stolen.get(reverse("console:overview"))
    assert answer["Location"].startswith(reverse("mfa_reauthenticate"))
    stolen.post(reverse("mfa_reauthenticate"), {"code": code_of(newcomer.secret, later=1)})
    assert stolen.get(reverse("console:overview")).status_code == 200


@pytest.fixture
def stolen(newcomer):
    """A session that gave the password before the factor was enrolled in another browser, and that is fresh."""
    browser = Browser()
    browser.give_password("olga")
    newcomer.enrol_app()
    return browser


CHANGING = [
    "mfa_index", "mfa_activate_totp", "mfa_deactivate_totp", "mfa_view_recovery_codes", "mfa_generate_recovery_codes",
    "mfa_download_recovery_codes", "mfa_list_webauthn", "mfa_add_webauthn", "account_change_password",
]  # fmt: skip


@pytest.mark.parametrize("page", CHANGING)
def test_a_session_that_owes_its_factor_changes_none_and_no_password(stolen, page):
    kept = set(Authenticator.objects.values_list("pk", flat=True))
    fields = {"oldpassword": PASSWORD, "password1": "an even longer password", "password2": "an even longer password"}
    for answer in (stolen.get(reverse(page)), stolen.post(reverse(page), fields)):
        assert answer["Location"].startswith(reverse("mfa_reauthenticate"))
    assert set(Authenticator.objects.values_list("pk", flat=True)) == kept
    assert User.objects.get(username="olga").check_password(PASSWORD)
    assert stolen.get(reverse("console:overview"))["Location"].startswith(reverse("mfa_reauthenticate"))


def test_every_page_of_accounts_is_closed_to_a_session_that_owes_its_factor_or_shows_it(stolen):
    names = [name for name in get_resolver().reverse_dict if str(name).startswith(("account_", "mfa_"))]
    assert set(CHANGING) | SHOWING | {"mfa_remove_webauthn", "mfa_edit_webauthn"} == set(names)
    for page in ("mfa_remove_webauthn", "mfa_edit_webauthn"):
        answer = stolen.post(reverse(page, args=(1,)))
        assert answer["Location"].startswith(reverse("mfa_reauthenticate"))


def test_what_was_put_off_before_the_factor_was_enrolled_is_not_done_with_the_password(newcomer):
    stolen = Browser()
    stolen.give_password("olga")
    stolen.sits_idle(301)
    page = reverse("mfa_add_webauthn")
    asked = stolen.post(page, {"name": "x", "credential": "{}"})
    newcomer.enrol_app()
    stolen.post(asked["Location"], {"password": PASSWORD, "next": page})
    assert not Authenticator.objects.filter(type=Authenticator.Type.WEBAUTHN).exists()
    assert stolen.get(reverse("console:overview"))["Location"].startswith(reverse("mfa_reauthenticate"))


def test_a_sign_in_enrols_nothing(at_the_door):
    before = told("operator.factor_enrolled")
    assert give(at_the_door, code_of(at_the_door.secret)).status_code == 302
    assert told("operator.factor_enrolled", "operator.factor_removed") == before


def test_a_session_whose_factor_was_taken_away_shows_the_next_one(enrolled, at_the_door):
    give(at_the_door, code_of(at_the_door.secret, later=1))
    call_command("reset_second_factor", "olga", "--reason", "her laptop was stolen, open")
    caches["ratelimit"].clear()
    owner = Browser()
    owner.give_password("olga")
    owner.enrol_app()
    assert owner.get(reverse("console:overview")).status_code == 200
    for old in (enrolled, at_the_door):
        assert old.get(reverse("console:overview"))["Location"].startswith(reverse("mfa_reauthenticate"))


def test_who_came_in_by_a_recovery_code_stays_in_with_new_codes(enrolled):
    codes = enrolled.get(reverse("mfa_view_recovery_codes")).context["unused_codes"]
    browser = Browser()
    browser.give_password("olga")
    give(browser, codes[0])
    browser.post(reverse("mfa_generate_recovery_codes"))
    assert len(browser.get(reverse("mfa_view_recovery_codes")).context["unused_codes"]) == 10


def test_a_removed_factor_is_an_event_and_leads_back_to_enrolment(enrolled):
    assert enrolled.post(reverse("mfa_deactivate_totp")).status_code == 302
    assert told("operator.factor_removed") == [
        "Operator olga removed a second factor: authenticator app",
        "Operator olga removed a second factor: recovery codes",
    ]
    assert not FactorSecret.objects.exists()
    assert enrolled.get(reverse("console:overview"))["Location"].startswith(reverse("mfa_index"))


@pytest.mark.parametrize("page", ["mfa_deactivate_totp", "mfa_generate_recovery_codes", "mfa_add_webauthn"])
def test_factors_are_changed_after_a_fresh_sign_in_only(enrolled, page):
    enrolled.sits_idle(301)
    answer = enrolled.post(reverse(page), {})
    assert answer["Location"].startswith(reverse("account_reauthenticate"))
    assert Authenticator.objects.count() == 2


def test_new_recovery_codes_void_the_old_ones_and_are_an_event(enrolled):
    old = enrolled.get(reverse("mfa_view_recovery_codes")).context["unused_codes"]
    enrolled.post(reverse("mfa_generate_recovery_codes"))
    new = enrolled.get(reverse("mfa_view_recovery_codes")).context["unused_codes"]
    assert not set(old) & set(new)
    assert "Operator olga enrolled a second factor: recovery codes" in told("operator.factor_enrolled")
    assert FactorSecret.objects.count() == 2


def test_a_lost_factor_is_reset_from_a_shell_with_a_reason(enrolled):
    call_command("reset_second_factor", "olga", "--reason", "her phone fell into the lake")
    assert not Authenticator.objects.exists()
    assert not FactorSecret.objects.exists()
    assert told("operator.second_factor_reset") == [
        "The second factors of operator olga were taken away: her phone fell into the lake"
    ]
    assert enrolled.get(reverse("console:overview"))["Location"].startswith(reverse("mfa_index"))


@pytest.mark.parametrize(("name", "reason"), [("nobody", "x"), ("olga", " "), ("eve", "she has none")])
def test_a_reset_that_makes_no_sense_is_refused(enrolled, name, reason):
    person("eve", Role.VIEWER)
    with pytest.raises(CommandError):
        call_command("reset_second_factor", name, "--reason", reason)
    assert Authenticator.objects.count() == 2


def test_a_reset_without_counters_is_refused_in_words_and_changes_nothing(enrolled, monkeypatch):
    def down(*arguments, **options):
        raise OSError("the disk is full")

    person("sam", Role.SECURITY_OFFICER)
    officer = Browser().sign_in("sam")
    kept = Authenticator.objects.count()
    monkeypatch.setattr(caches["ratelimit"], "delete", down)
    page = reverse("admin:auth_user_reset_second_factor", args=(User.objects.get(username="olga").pk,))
    answer = officer.post(page, {"confirmed": "yes", "reason": "a lost phone"})
    assert answer.status_code == 302
    assert "cannot be reached; nothing was changed" in str(list(get_messages(answer.wsgi_request))[0])
    with pytest.raises(CommandError, match="cannot be reached; nothing was changed"):
        call_command("reset_second_factor", "olga", "--reason", "a lost phone")
    assert Authenticator.objects.count() == kept
    assert told("operator.second_factor_reset") == []


CREDENTIALS = ["{}", "[]", "null", "7", '"x"', '{"response": 7}', '{"response": {"userHandle": "AA"}}', "no JSON", ""]


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("page", ["mfa_authenticate", "mfa_login_webauthn"])
def test_the_answer_of_a_passkey_may_be_anything_and_lets_nobody_in(at_the_door, page, credential):
    assert at_the_door.post(reverse(page), {"credential": credential}).status_code in (200, 302)
    assert "_auth_user_id" not in at_the_door.session


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("page", ["mfa_add_webauthn", "mfa_reauthenticate_webauthn"])
def test_a_passkey_that_is_none_is_not_enrolled_and_proves_nothing(enrolled, page, credential):
    assert enrolled.post(reverse(page), {"credential": credential, "name": "x"}).status_code in (200, 302)
    assert not Authenticator.objects.filter(type=Authenticator.Type.WEBAUTHN).exists()


def test_nobody_signs_up_and_no_address_is_asked_for(client):
    for address in ("signup/", "email/", "password/reset/"):
        assert client.get(f"/accounts/{address}").status_code == 404
    assert not User.objects.exists()


def test_the_admins_own_login_page_leads_to_the_one_way_in(client):
    answer = client.get("/admin/login/?next=/admin/")
    assert answer["Location"] == "/accounts/login/?next=%2Fadmin%2F"
    assert client.post("/admin/login/", {"username": "olga", "password": "x"}).status_code == 302


@time_machine.travel(WITHIN_A_MINUTE, tick=False)
def test_one_address_does_not_try_all_names(settings):
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"sign-in": "3/m"}
    answers = [Browser().give_password(f"name-{number}") for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1]["Retry-After"] == "60"
    assert "Wait a minute" in answers[-1].content.decode()
    assert Browser().get(reverse("account_login")).status_code == 200


@time_machine.travel(WITHIN_A_MINUTE, tick=False)
def test_asking_for_a_passkey_again_and_again_makes_no_end_of_sessions(settings):
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"sign-in": "3/m"}
    for _ in range(6):
        Browser().get(reverse("mfa_login_webauthn"), headers={"Accept": "application/json"})
    assert Session.objects.count() == 3


def test_who_has_no_role_is_told_whom_to_ask_and_can_sign_out():
    User.objects.create_user("nina", password=PASSWORD)
    browser = Browser().sign_in("nina")
    answer = browser.get(reverse("console:overview"), follow=True)
    assert answer.status_code == 403
    assert "A security officer of this site gives roles" in answer.content.decode()
    assert "Sign out nina" in answer.content.decode()
    assert "unsafe" not in browser.get("/accounts/2fa/")["Content-Security-Policy"]


@pytest.mark.parametrize("page", ["mfa_index", "mfa_activate_totp", "mfa_generate_recovery_codes"])
def test_a_key_out_of_reach_is_said_and_no_failure(enrolled, monkeypatch, page):
    def out_of_reach(*arguments, **options):
        raise KekError("the token does not answer")

    enrolled.post(reverse("mfa_deactivate_totp")) if page == "mfa_activate_totp" else None
    monkeypatch.setattr("keyring.envelope.unwrap", out_of_reach)
    monkeypatch.setattr("keyring.envelope.wrap", out_of_reach)
    answer = enrolled.get(reverse(page))
    assert answer.status_code == 503
    assert "Try again in a minute" in answer.content.decode()


def test_a_code_is_not_taken_while_the_key_is_out_of_reach(at_the_door, monkeypatch):
    def out_of_reach(*arguments, **options):
        raise KekError("the token does not answer")

    monkeypatch.setattr("keyring.envelope.unwrap", out_of_reach)
    assert give(at_the_door, code_of(at_the_door.secret)).status_code == 503
    assert "_auth_user_id" not in at_the_door.session


def test_a_lock_out_is_told_in_words(newcomer):
    for _ in range(5):
        answer = Browser().give_password("olga", "not the password")
    assert answer.status_code == 429
    assert "Wait a quarter of an hour" in answer.content.decode()


@pytest.mark.parametrize("namespace", ["console", "admin"])
def test_no_page_for_people_lies_where_nothing_is_asked_for(namespace):
    (resolver,) = [one for one in get_resolver().url_patterns if getattr(one, "app_name", None) == namespace]
    begin = "/" + str(resolver.pattern)
    addresses = [begin + str(page.pattern) for page in resolver.url_patterns]
    assert len(addresses) > 10
    assert [address for address in addresses if address.startswith(WITHOUT_SIGN_IN)] == []
