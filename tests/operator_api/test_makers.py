"""A key does what its maker may do, and no longer than that person may."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from devices.models import Device, DeviceState
from operator_access.roles import Role
from operator_access.services.people import create_operator, keep_out, let_in, set_roles
from operator_api.models import ApiKey
from operator_api.scopes import Scope
from operator_api.services import create_key
from tests.factories import make_device

pytestmark = pytest.mark.django_db


@pytest.fixture
def sam():
    return create_operator("sam", roles=[Role.SECURITY_OFFICER], password="a long enough password", actor="system")


def script_of(maker, name="a-script"):
    scopes, day = (Scope.DEVICES_READ, Scope.DEVICES_WRITE), timedelta(days=1)
    key = create_key(name, scopes=scopes, lifetime=day, actor="operator:x", now=timezone.now(), maker=maker)
    return Client(headers={"Authorization": f"Bearer {key.text}"})


def suspended(script):
    device = make_device(f"edge-{Device.objects.count()}")
    address = f"/api/operator/devices/{device.pk}/suspend"
    answer = script.post(address, {"reason": "because"}, content_type="application/json")
    done = Device.objects.get(pk=device.pk).state == DeviceState.SUSPENDED
    assert done == (answer.status_code == 200), answer.content
    return answer.status_code


def seen(script):
    return script.get("/api/operator/devices").status_code


def test_a_key_works_while_its_maker_does(sam):
    script = script_of(sam)
    assert (seen(script), suspended(script)) == (200, 200)


def test_who_is_kept_out_loses_the_keys_for_good_and_in_the_log(sam):
    script, other = script_of(sam), script_of(None, "of-a-shell")
    keep_out(sam.pk, reason="left us", actor="operator:root")
    assert (seen(script), suspended(script)) == (401, 401)
    assert Event.objects.get(kind="api_key.revoked").payload == {
        "name": "a-script", "reason": "sam is kept out: left us",
    }  # fmt: skip
    let_in(sam.pk, reason="came back", actor="operator:root")
    assert seen(script) == 401
    assert seen(other) == 200


def test_a_key_that_cannot_be_revoked_keeps_nobody_out(sam, monkeypatch):
    def down(*arguments, **options):
        raise OSError("no event")

    script = script_of(sam)
    monkeypatch.setattr("operator_api.services.record_event", down)
    with pytest.raises(OSError, match="no event"):
        keep_out(sam.pk, reason="left us", actor="operator:root")
    assert User.objects.get(pk=sam.pk).is_active
    assert seen(script) == 200


def test_a_key_whose_maker_was_switched_off_by_hand_is_refused(sam):
    script = script_of(sam)
    User.objects.filter(pk=sam.pk).update(is_active=False)
    assert seen(script) == 401
    refused = Event.objects.get(kind="api_key.refused")
    assert refused.payload["reason"] == "its maker has no access any more"


def test_a_key_writes_nothing_that_its_maker_may_not_any_more(sam):
    script = script_of(sam)
    set_roles(sam.pk, [Role.VIEWER], reason="another job", actor="operator:root")
    assert (seen(script), suspended(script)) == (200, 403)
    set_roles(sam.pk, [], reason="no job", actor="operator:root")
    assert seen(script) == 401


def test_a_key_whose_maker_was_deleted_is_refused(sam):
    script = script_of(sam)
    sam.delete()
    assert seen(script) == 401
    assert ApiKey.objects.get().maker is None


def test_a_key_of_a_shell_answers_to_nobody():
    script = script_of(None)
    assert (seen(script), suspended(script)) == (200, 200)


def test_a_maker_who_is_no_person_is_not_stored(sam):
    script_of(sam)
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.update(made_by_person=False)


def test_the_page_notes_who_made_the_key(sam):
    browser = Client()
    browser.force_login(sam, backend="django.contrib.auth.backends.ModelBackend")
    fields = {"name": "a-script", "scopes": ["devices:read"], "days": "1"}
    assert browser.post(reverse("admin:operator_api_apikey_create"), fields).status_code == 200
    assert ApiKey.objects.get().maker == sam
