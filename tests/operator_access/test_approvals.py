"""Two persons: one asks, another one agrees, and only then it is done; nobody is both."""

import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from devices.models import DeviceState
from operator_access.models import ApprovalRequest
from operator_access.roles import Role
from operator_access.services.approvals import approve, expire_approvals
from operator_access.services.people import keep_out
from operator_access.tasks import expire_approvals as expire_task
from operator_admin import actions
from qflare_protocol.errors import Refusal
from sessions.services import revoke_device
from tests.factories import make_device
from tests.monitor.test_races import together
from tests.operator_access.conftest import Browser, person, told
from tests.operator_access.two_persons import STOLEN, ask_to_revoke, decide, device, said, state_of, sue, two_persons

__all__ = ["device", "sue", "two_persons"]


def test_what_takes_two_is_asked_for_and_not_done(sam, device):
    page = sam.get(reverse("admin:devices_device_revoke", args=(device.pk,)))
    assert "this takes two persons" in page.content.decode()
    row = ask_to_revoke(sam, device)
    assert (row.state, row.asked_by_name, row.target_name) == ("pending", "operator:sam", "edge-1")
    assert row.answers == {"reason": ["stolen"]}
    assert row.expires_at - row.asked_at == timedelta(hours=24)
    assert state_of(device) == DeviceState.ACTIVE
    assert told("approval.asked") == ["Revoke of edge-1 was asked for; it takes a second person"]


def test_where_the_site_says_nothing_one_person_is_enough(sam, device, settings):
    settings.QFLARE_SECOND_PERSON = []
    sam.post(reverse("admin:devices_device_revoke", args=(device.pk,)), STOLEN)
    assert state_of(device) == DeviceState.REVOKED
    assert not ApprovalRequest.objects.exists()


def test_another_person_sees_all_of_it_and_approves(sam, sue, device):
    row = ask_to_revoke(sam, device)
    page = sue.get(reverse("console:approval", args=(row.pk,))).content.decode()
    assert "Revoke: edge-1" in page
    assert "stolen" in page
    assert "keys are never accepted again" in page
    assert "operator:sam" in page
    decide(sue, row, "approve")
    assert state_of(device) == DeviceState.REVOKED
    assert (row.state, row.decided_by_name, row.remark) == ("approved", "operator:sue", "seen and agreed")
    approved, done = Event.objects.get(kind="approval.approved"), Event.objects.get(kind="device.revoked")
    assert approved.actor == "operator:sue"
    assert approved.payload["asked_by"] == done.actor == "operator:sam"
    assert done.payload["reason"] == "stolen"


def test_the_pages_are_kept_by_nobody(sam, sue, device):
    row = ask_to_revoke(sam, device)
    for page in (reverse("console:approvals"), reverse("console:approval", args=(row.pk,))):
        answer = sue.get(page)
        assert answer.status_code == 200
        assert "no-store" in answer["Cache-Control"]
        assert "default-src 'none'" in answer["Content-Security-Policy"]


def test_who_asked_cannot_approve(sam, device):
    row = ask_to_revoke(sam, device)
    assert "Approve and do it" not in sam.get(reverse("console:approval", args=(row.pk,))).content.decode()
    answer = decide(sam, row, "approve")
    assert said(answer) == ["It is not pending any more, or you asked for it yourself."]
    assert (row.state, state_of(device)) == ("pending", DeviceState.ACTIVE)


def test_the_database_itself_refuses_that_one_person_does_both(sam, device):
    row = ask_to_revoke(sam, device)
    decided = {"state": "approved", "decided_at": timezone.now(), "remark": "me, too"}
    for who in ({"decided_by": row.asked_by, "decided_by_name": "operator:x"}, {"decided_by_name": "operator:sam"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            ApprovalRequest.objects.filter(pk=row.pk).update(**decided, **who)


def test_who_may_not_do_it_cannot_approve_it(sam, olga, device):
    row = ask_to_revoke(sam, device)
    decide(olga, row, "approve")
    assert (row.state, state_of(device)) == ("pending", DeviceState.ACTIVE)


@pytest.mark.parametrize("decision", ["approve", "refuse"])
def test_a_decision_needs_a_remark(sam, sue, device, decision):
    row = ask_to_revoke(sam, device)
    assert decide(sue, row, decision, remark="  ").status_code == 200
    assert row.state == "pending"


@pytest.mark.parametrize("decision", ["", "do it", "pending"])
def test_a_decision_that_is_none_decides_nothing(sam, sue, device, decision):
    row = ask_to_revoke(sam, device)
    assert decide(sue, row, decision).status_code == 200
    assert row.state == "pending"


def test_a_stale_sign_in_approves_nothing(sam, sue, device):
    row = ask_to_revoke(sam, device)
    sue.sits_idle(301)
    assert decide(sue, row, "approve")["Location"].startswith(reverse("account_reauthenticate"))
    assert row.state == "pending"


def test_what_is_refused_is_not_done_and_can_be_asked_for_again(sam, sue, device):
    row = ask_to_revoke(sam, device)
    decide(sue, row, "refuse", "it was found")
    assert (row.state, state_of(device)) == ("refused", DeviceState.ACTIVE)
    assert told("approval.refused") == ["Revoke of edge-1, asked for by operator:sam, was refused: it was found"]
    decide(sue, row, "approve")
    assert row.state == "refused"
    assert ask_to_revoke(sam, device).pk != row.pk


def test_who_asked_may_withdraw_and_nobody_else(sam, sue, device):
    row = ask_to_revoke(sam, device)
    decide(sue, row, "withdraw")
    assert row.state == "pending"
    decide(sam, row, "withdraw", remark="")
    assert row.state == "withdrawn"
    assert told("approval.withdrawn") == ["Revoke of edge-1 was withdrawn by whoever asked for it"]


def test_the_same_is_asked_for_once_at_a_time(sam, sue, device):
    ask_to_revoke(sam, device)
    ask_to_revoke(sue, device)
    assert ApprovalRequest.objects.count() == 1
    assert len(told("approval.asked")) == 1


def test_several_devices_are_asked_for_one_by_one(sam, device):
    others = [device, make_device("edge-2")]
    selection = {"action": "revoke_selected", "_selected_action": [str(one.pk) for one in others], **STOLEN}
    sam.post(reverse("admin:devices_device_changelist"), selection)
    assert set(ApprovalRequest.objects.values_list("target_name", flat=True)) == {"edge-1", "edge-2"}
    assert {state_of(one) for one in others} == {DeviceState.ACTIVE}


def age(row, hours):
    asked_at = timezone.now() - timedelta(hours=hours)
    ApprovalRequest.objects.filter(pk=row.pk).update(asked_at=asked_at, expires_at=asked_at + timedelta(hours=24))


def test_a_request_that_nobody_answered_in_a_day_is_over(sam, sue, device):
    row = ask_to_revoke(sam, device)
    age(row, 25)
    decide(sue, row, "approve")
    assert state_of(device) == DeviceState.ACTIVE
    expire_task()
    row.refresh_from_db()
    assert row.state == "expired"
    assert expire_approvals(now=timezone.now()) == 0
    assert len(told("approval.expired")) == 1


def test_a_request_that_is_over_is_in_nobodys_way(sam, device):
    age(ask_to_revoke(sam, device), 25)
    assert ask_to_revoke(sam, device).state == "pending"


def test_an_approval_that_the_service_refuses_leaves_all_as_it_was(sam, sue, device):
    row = ask_to_revoke(sam, device)
    revoke_device(device.pk, reason="by another way", actor="operator:root", now=timezone.now())
    answer = decide(sue, row, "approve")
    assert said(answer) == ["The device is revoked; it cannot become revoked from there."]
    assert row.state == "pending"
    assert told("approval.approved") == []


def test_what_was_asked_by_somebody_who_may_not_any_more_is_not_done(sam, sue, device):
    row = ask_to_revoke(sam, device)
    keep_out(User.objects.get(username="sam").pk, reason="left", actor="operator:root")
    assert said(decide(sue, row, "approve")) == ["operator:sam may not do this any more."]
    assert (row.state, state_of(device)) == ("pending", DeviceState.ACTIVE)


def test_what_was_asked_by_somebody_who_was_deleted_is_refused_or_never_done(sam, sue, device):
    row = ask_to_revoke(sam, device)
    User.objects.get(username="sam").delete()
    assert said(decide(sue, row, "approve")) == ["operator:sam may not do this any more."]
    assert (row.state, state_of(device)) == ("pending", DeviceState.ACTIVE)
    decide(sue, row, "refuse")
    assert row.state == "refused"


def test_a_person_and_a_shell_do_not_ask_together(sam, device):
    ask_to_revoke(sam, device)
    with pytest.raises(IntegrityError), transaction.atomic():
        ApprovalRequest.objects.update(from_shell=True)


def test_a_row_that_is_gone_is_a_message(sam, sue, device):
    row = ask_to_revoke(sam, device)
    ApprovalRequest.objects.filter(pk=row.pk).update(target=str(uuid.uuid4()))
    assert sue.get(reverse("console:approval", args=(row.pk,))).status_code == 200
    decide(sue, row, "approve")
    assert row.state == "pending"


@pytest.mark.django_db(transaction=True)
def test_of_two_who_approve_at_once_one_does_it(device):
    sam, officers = person("sam", Role.SECURITY_OFFICER), []
    officers = [person(name, Role.SECURITY_OFFICER) for name in ("sue", "tim")]
    browser = Browser()
    browser.force_login(sam, backend="django.contrib.auth.backends.ModelBackend")
    action = actions.action_by_name("devices.device.revoke")
    wish = actions.Wish(action, str(device.pk), "edge-1", {"reason": ["stolen"]})
    request = type("Request", (), {"user": sam})()
    actions.ask_second_person(request, wish)
    row = ApprovalRequest.objects.get()

    def agree(number):
        try:
            return approve(row.pk, user=officers[number], remark="agreed", now=timezone.now())
        except Refusal as refusal:
            return refusal.code

    assert sorted(together(2, agree)) == ["conflict", "edge-1 is revoked and its sessions have ended."]
    assert Event.objects.filter(kind="device.revoked").count() == 1
    assert Event.objects.filter(kind="approval.approved").count() == 1


def test_a_viewer_does_not_see_what_others_ask_for(sam, device):
    row = ask_to_revoke(sam, device)
    person("vera", Role.VIEWER)
    vera = Browser().sign_in("vera")
    assert vera.get(reverse("console:approval", args=(row.pk,))).status_code == 404
    assert "edge-1" not in vera.get(reverse("console:approvals")).content.decode()


def test_an_action_of_another_release_is_shown_and_not_done(sam, sue, device):
    row = ask_to_revoke(sam, device)
    ApprovalRequest.objects.filter(pk=row.pk).update(action="devices.device.teleport")
    assert "does not know how" in sue.get(reverse("console:approval", args=(row.pk,))).content.decode()
    decide(sue, row, "approve")
    assert row.state == "pending"


@pytest.mark.parametrize("name", ["devices.device.suspend", "nothing.device.revoke", "revoke", "devices.device.", ""])
def test_what_takes_no_second_person_is_no_action(name):
    with pytest.raises(Refusal, match="not-found"):
        actions.action_by_name(name)
