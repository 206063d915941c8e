"""What is sensitive asks for a fresh sign-in first, and is not done behind the question."""

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from audit.models import Event
from devices.models import Device, DeviceState
from operator_access.roles import Role
from tests.factories import make_device, populate
from tests.operator_access.conftest import PASSWORD, Browser, code_of, person


@pytest.fixture
def device():
    return make_device("edge-1")


def revoke_page(device):
    return reverse("admin:devices_device_revoke", args=(device.pk,))


CONFIRMED = {"confirmed": "yes", "reason": "stolen"}


def test_a_fresh_sign_in_revokes(sam, device):
    sam.post(revoke_page(device), CONFIRMED)
    assert Device.objects.get(pk=device.pk).state == DeviceState.REVOKED


def test_a_stale_sign_in_does_not_and_comes_back_to_the_question(sam, device):
    sam.sits_idle(301)
    answer = sam.post(revoke_page(device), CONFIRMED)
    assert answer["Location"] == f"{reverse('account_reauthenticate')}?next={revoke_page(device).replace('/', '%2F')}"
    assert Device.objects.get(pk=device.pk).state == DeviceState.ACTIVE
    again = sam.post(answer["Location"], {"password": PASSWORD, "next": revoke_page(device)})
    assert again["Location"] == revoke_page(device)
    assert Device.objects.get(pk=device.pk).state == DeviceState.ACTIVE  # it is asked again, not done
    sam.post(revoke_page(device), CONFIRMED)
    assert Device.objects.get(pk=device.pk).state == DeviceState.REVOKED


def test_a_code_proves_it_as_well(sam, device):
    sam.sits_idle(301)
    sam.post(reverse("mfa_reauthenticate"), {"code": code_of(sam.secret)})
    assert sam.get(revoke_page(device)).status_code == 200


def test_a_wrong_password_proves_nothing_and_counts_towards_a_lock_out(sam, device):
    sam.sits_idle(301)
    sam.post(reverse("account_reauthenticate"), {"password": "not the password"})
    assert sam.get(revoke_page(device)).status_code == 302
    assert Event.objects.filter(kind="operator.sign_in_failed").exists()


def test_what_is_not_sensitive_asks_for_nothing(olga, device):
    olga.sits_idle(301)
    page = reverse("admin:devices_device_suspend", args=(device.pk,))
    olga.post(page, CONFIRMED)
    assert Device.objects.get(pk=device.pk).state == DeviceState.SUSPENDED


def test_the_selected_are_not_revoked_by_a_stale_sign_in_either(sam, device):
    sam.sits_idle(301)
    selection = {"action": "revoke_selected", "_selected_action": [str(device.pk)], **CONFIRMED}
    answer = sam.post(reverse("admin:devices_device_changelist"), selection)
    assert answer["Location"].startswith(reverse("account_reauthenticate"))
    assert Device.objects.get(pk=device.pk).state == DeviceState.ACTIVE


SENSITIVE = [
    ("operator", "training_modelversion_release"),
    ("operator", "training_federation_roll_back"),
    ("operator", "training_round_cancel"),
    ("officer", "operator_api_apikey_create"),
    ("officer", "operator_api_apikey_revoke"),
    ("officer", "device_sessions_qkdpolicy_set_policy"),
    ("officer", "monitor_rulesetting_tune"),
    ("officer", "monitor_notificationchannel_make"),
    ("officer", "monitor_notificationchannel_renew_secret"),
    ("officer", "auth_user_set_roles"),
    ("officer", "auth_user_reset_second_factor"),
    ("officer", "auth_user_keep_out"),
    ("officer", "auth_user_let_in"),
    ("officer", "auth_user_change"),
    ("officer", "auth_user_add"),
    ("officer", "auth_user_password_change"),
]
OF_ALL_ROWS = ("create", "set_policy", "make", "add")


@pytest.mark.parametrize(("who", "page"), SENSITIVE)
def test_every_sensitive_page_asks(who, page, olga, sam):
    site, browser = populate(), olga if who == "operator" else sam
    row = {
        "modelversion": site.federation.current_version,
        "federation": site.federation,
        "round": site.running,
        "user": User.objects.get(username="olga"),
    }.get(page.split("_")[1])
    key = row.pk if row else _first_key(page)
    address = reverse(f"admin:{page}", args=() if page.endswith(OF_ALL_ROWS) else (key,))
    assert browser.get(address).status_code == 200
    browser.sits_idle(301)
    for answer in (browser.get(address), browser.post(address, CONFIRMED)):
        assert answer.status_code == 302
        assert answer["Location"].startswith(reverse("account_reauthenticate"))


def _first_key(page):
    from django.apps import apps

    *app, model = page.split("_")[:3] if page.startswith(("operator_api", "device_sessions")) else page.split("_")[:2]
    return apps.get_model("_".join(app), model).objects.first().pk


def test_a_session_made_without_any_sign_in_is_stale(device):
    browser = Browser()
    browser.force_login(person("sue", Role.SECURITY_OFFICER), backend="django.contrib.auth.backends.ModelBackend")
    assert browser.get(revoke_page(device)).status_code == 302


def test_the_site_may_be_told_not_to_ask(sam, device, settings):
    settings.QFLARE_FRESH_SIGN_IN_SECONDS = 0
    sam.sits_idle(10_000)
    assert sam.get(revoke_page(device)).status_code == 200


def change(browser, user, operation, **answers):
    page = reverse(f"admin:auth_user_{operation}", args=(user.pk,))
    return browser.post(page, {"confirmed": "yes", "reason": "because", **answers})


def test_an_officer_gives_roles_and_keeps_people_out(sam):
    eve = person("eve", Role.VIEWER)
    change(sam, eve, "set_roles", roles=[Role.OPERATOR, Role.AUDITOR])
    assert set(eve.groups.values_list("name", flat=True)) == {Role.OPERATOR, Role.AUDITOR}
    change(sam, eve, "keep_out")
    eve.refresh_from_db()
    assert not eve.is_active
    assert Event.objects.get(kind="operator.kept_out").actor == "operator:sam"


def test_an_officer_resets_a_lost_second_factor(sam, olga):
    change(sam, User.objects.get(username="olga"), "reset_second_factor")
    assert olga.get(reverse("console:overview"))["Location"].startswith(reverse("mfa_index"))


@pytest.mark.parametrize("operation", ["set_roles", "reset_second_factor", "keep_out", "let_in", "password_change"])
def test_an_officer_has_no_power_over_a_superuser(sam, operation):
    root = User.objects.create_superuser("root", password=PASSWORD)
    assert change(sam, root, operation).status_code == 403


def test_an_officer_gives_no_rights_by_the_form(sam):
    eve = person("eve", Role.VIEWER)
    page = reverse("admin:auth_user_change", args=(eve.pk,))
    fields = {"username": "eve", "is_superuser": "on", "is_staff": "on", "user_permissions": ["1"], "groups": ["1"]}
    sam.post(page, {**fields, "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"})
    eve.refresh_from_db()
    assert not eve.is_superuser
    assert not eve.user_permissions.exists()
    assert set(eve.groups.values_list("name", flat=True)) == {Role.VIEWER}


NEW = "an even longer password"


def new_password(browser, old):
    fields = {"oldpassword": old, "password1": NEW, "password2": NEW}
    return browser.post(reverse("account_change_password"), fields)


def test_a_new_password_is_recorded_and_keeps_this_session(sam):
    assert new_password(sam, PASSWORD).status_code == 302
    assert User.objects.get(username="sam").check_password(NEW)
    kinds = Event.objects.order_by("-id").values_list("kind", flat=True)
    assert kinds[0] == "operator.password_changed"
    assert sam.get(reverse("console:overview")).status_code == 200


def test_a_password_that_cannot_be_recorded_is_not_changed(sam, monkeypatch):
    def down(*arguments, **options):
        raise OSError("no event")

    monkeypatch.setattr("qflare_site.operator_events.record_event", down)
    with pytest.raises(OSError, match="no event"):
        new_password(sam, PASSWORD)
    assert User.objects.get(username="sam").check_password(PASSWORD)


def test_a_password_is_changed_after_a_fresh_sign_in_only(sam):
    sam.sits_idle(301)
    assert new_password(sam, PASSWORD)["Location"].startswith(reverse("account_reauthenticate"))
    assert User.objects.get(username="sam").check_password(PASSWORD)


def test_guessing_the_old_password_is_recorded_and_ends_in_a_lock_out(sam):
    answers = [new_password(sam, f"guess {number}").status_code for number in range(5)]
    assert answers == [200, 200, 200, 200, 429]
    assert Event.objects.filter(kind="operator.sign_in_failed").count() == 5
    assert new_password(sam, PASSWORD).status_code == 429
    assert User.objects.get(username="sam").check_password(PASSWORD)


def test_a_stranger_who_would_change_a_password_signs_in_first(client):
    assert client.get(reverse("account_change_password"))["Location"].startswith(reverse("account_login"))
