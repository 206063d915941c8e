"""API keys: shown once, stored as hashes, refused alike whatever is wrong with them."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db.models import Q
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from operator_api.models import ApiKey
from operator_api.scopes import DEMANDS, READING, Scope
from operator_api.services import MAX_LIFETIME, TEXT_LENGTH, create_key, live_key, revoke_key
from qflare_protocol.errors import Refusal

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def made(name="a-script", scopes=(Scope.DEVICES_READ,), lifetime=timedelta(days=1), now=NOW):
    return create_key(name, scopes=scopes, lifetime=lifetime, actor="operator:olga", now=now)


def test_a_key_is_found_by_its_text_and_kept_nowhere_else():
    created = made()
    assert live_key(created.text, now=NOW) == created.row
    assert len(created.text) == TEXT_LENGTH
    assert created.text not in repr(created)
    stored = ApiKey.objects.values().get()
    assert created.text[4:] not in str(stored)
    said = Event.objects.get(kind="api_key.created")
    assert created.text not in str(said.payload)
    assert said.description.startswith("API key a-script created for devices:read")


def refused_text(created):
    first = "A" if created.text[-1] != "A" else "B"
    return {
        "another secret": created.text[:-1] + first,
        "unknown": "qfk_" + "A" * 64,
        "empty": "",
        "short": created.text[:-1],
        "no base64": "qfk_" + "!" * 64,
        "not latin": "qfk_" + "é" * 64,
        "another prefix": "xyz_" + created.text[4:],
    }


@pytest.mark.parametrize("wrong", [*refused_text(type("Key", (), {"text": "qfk_" + "C" * 64})), "expired", "revoked"])
def test_whatever_is_wrong_with_a_key_is_refused_in_the_same_words(wrong):
    created, now = made(), NOW
    if wrong == "expired":
        now += timedelta(days=1)
    elif wrong == "revoked":
        revoke_key(created.row.id, reason="lost", actor="operator:olga", now=NOW)
    with pytest.raises(Refusal) as refused:
        live_key(refused_text(created).get(wrong, created.text), now=now)
    assert (refused.value.code, refused.value.detail) == (
        "authentication-failed",
        "The API key is not accepted; an operator can make another.",
    )


def test_a_name_is_given_once_even_after_its_key_was_revoked():
    revoke_key(made().row.id, reason="lost", actor="operator:olga", now=NOW)
    with pytest.raises(Refusal, match="names are not given twice"):
        made()
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("scopes", [(), ("devices:destroy",), (Scope.LOG_READ, "all")])
def test_a_key_without_or_with_unknown_scopes_is_not_made(scopes):
    with pytest.raises(Refusal, match="Name scopes of"):
        made(scopes=scopes)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("lifetime", [timedelta(0), -timedelta(days=1), MAX_LIFETIME + timedelta(seconds=1)])
def test_a_key_has_an_end_within_a_year(lifetime):
    with pytest.raises(Refusal, match="A key lives between"):
        made(lifetime=lifetime)


def test_a_key_is_revoked_once_with_its_reason():
    created = made()
    with pytest.raises(Refusal, match="State the reason"):
        revoke_key(created.row.id, reason=" ", actor="operator:olga", now=NOW)
    revoke_key(created.row.id, reason="lost", actor="operator:olga", now=NOW)
    with pytest.raises(Refusal, match="not revoked already"):
        revoke_key(created.row.id, reason="lost", actor="operator:olga", now=NOW)
    assert Event.objects.get(kind="api_key.revoked").payload == {"name": "a-script", "reason": "lost"}


def test_when_a_key_was_last_used_is_noted_at_most_once_a_minute(django_assert_num_queries):
    created = made()
    live_key(created.text, now=NOW)
    live_key(created.text, now=NOW + timedelta(seconds=59))
    assert ApiKey.objects.get().last_used_at == NOW
    live_key(created.text, now=NOW + timedelta(seconds=61))
    assert ApiKey.objects.get().last_used_at == NOW + timedelta(seconds=61)


@pytest.mark.parametrize("name", ["", "two words", "a:b", "x" * 101, "name\n"])
def test_a_key_without_a_proper_name_is_not_made(name):
    with pytest.raises(Refusal, match="A key's name") as refused:
        made(name=name)
    assert refused.value.code == "conflict"
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("days", ["0", "367", "9999999999999"])
def test_the_command_refuses_an_impossible_lifetime_in_a_sentence(days):
    with pytest.raises(CommandError, match="A key lives"):
        call_command("create_api_key", "a-script", "--days", days)


@pytest.mark.parametrize(("wrong", "actor"), [("unknown", "stranger"), ("revoked", "api-key:a-script")])
def test_the_log_learns_why_a_key_was_refused(wrong, actor):
    created = made()
    revoke_key(created.row.id, reason="lost", actor="operator:olga", now=NOW)
    text = created.text if wrong == "revoked" else refused_text(created)["unknown"]
    with pytest.raises(Refusal) as refused:
        live_key(text, now=NOW)
    event = refused.value.audit_event
    assert (event.kind, event.actor, event.payload) == ("api_key.refused", actor, {"reason": wrong})


MAY_WRITE = [
    ((), False, []),
    (("change_device",), False, []),
    (("change_device", "delete_device"), False, ["devices:write"]),
    ((), True, ["devices:write", "rounds:write"]),
]


@pytest.mark.parametrize(("permissions", "superuser", "scopes"), MAY_WRITE)
def test_nobody_gives_a_key_what_they_may_not_do_themselves(permissions, superuser, scopes):
    olga = User.objects.create_user("olga", is_staff=True, is_superuser=superuser)
    own = Q(content_type__app_label="operator_api") | Q(codename__in=permissions)
    olga.user_permissions.set(Permission.objects.filter(own))
    browser = Client()
    browser.force_login(olga)
    address = reverse("admin:operator_api_apikey_create")
    for scope in ("devices:write", "rounds:write"):
        browser.post(address, {"name": scope.replace(":", "-"), "scopes": [scope], "days": "1"})
    assert sorted(scope for key in ApiKey.objects.all() for scope in key.scopes) == scopes
    browser.post(address, {"name": "reads", "scopes": ["devices:read"], "days": "1"})
    assert ApiKey.objects.get(name="reads").scopes == ["devices:read"]


def test_every_scope_that_writes_demands_permissions_that_there_are():
    assert set(DEMANDS) == {scope for scope in Scope if scope.value not in READING}
    names = {f"{app}.{name}" for app, name in Permission.objects.values_list("content_type__app_label", "codename")}
    assert {name for demanded in DEMANDS.values() for name in demanded} <= names
