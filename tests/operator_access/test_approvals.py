"""Two persons: one asks, another one agrees, and only then it is done; nobody is both."""

import uuid
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from devices.models import Device, DeviceState
from keyring.custodians import make_custodian_key
from keyring.models import EscrowSplit
from monitor.models import RuleSetting
from operator_access.models import ApprovalRequest, ApprovalState
from operator_access.roles import Role
from operator_access.services.approvals import approve, expire_approvals
from operator_access.services.people import keep_out, roles_of, set_roles
from operator_access.tasks import expire_approvals as expire_task
from operator_admin import actions
from operator_api.scopes import Scope
from operator_api.services import create_key
from qflare_protocol.errors import Refusal
from sessions.models import QkdPolicy
from sessions.services import revoke_device
from tests.console.test_new_federation import filled
from tests.factories import make_device, make_federation, populate
from tests.monitor.conftest import Scene
from tests.monitor.test_races import together
from tests.operator_access.conftest import PASSWORD, Browser, person, told
from training.models import Federation, FederationState

STOLEN = {"confirmed": "yes", "reason": "stolen"}


@pytest.fixture(autouse=True)
def two_persons(settings):
    settings.QFLARE_SECOND_PERSON = ["revoke", "release", "policy", "escrow", "access"]


@pytest.fixture
def device():
    return make_device("edge-1")


@pytest.fixture
def sue():
    """The browser of a second security officer."""
    person("sue", Role.SECURITY_OFFICER)
    return Browser().sign_in("sue")


def ask_to_revoke(browser, device):
    browser.post(reverse("admin:devices_device_revoke", args=(device.pk,)), STOLEN)
    return ApprovalRequest.objects.latest("asked_at")


def decide(browser, row, decision, remark="seen and agreed"):
    answer = browser.post(reverse("console:approval", args=(row.pk,)), {"decision": decision, "remark": remark})
    row.refresh_from_db()
    return answer


def state_of(device):
    return Device.objects.get(pk=device.pk).state


def said(answer):
    return [str(message) for message in get_messages(answer.wsgi_request)]


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


def test_a_model_is_released_and_rolled_back_by_two(olga):
    site = populate()
    person("otto", Role.OPERATOR)
    otto = Browser().sign_in("otto")
    first, last = site.federation.versions.order_by("number")[0], site.federation.current_version
    olga.post(reverse("admin:training_modelversion_release", args=(last.pk,)), {"confirmed": "yes"})
    decide(otto, ApprovalRequest.objects.get(), "approve")
    last.refresh_from_db()
    assert last.released_at is not None
    back = {"confirmed": "yes", "number": str(first.number), "reason": "it forgets"}
    olga.post(reverse("admin:training_federation_roll_back", args=(site.federation.pk,)), back)
    row = ApprovalRequest.objects.latest("asked_at")
    page = otto.get(reverse("console:approval", args=(row.pk,))).content.decode()
    assert "it forgets" in page
    decide(otto, row, "approve")
    assert row.state == "approved"
    assert Event.objects.get(kind="model.rolled_back").actor == "operator:olga"


def test_a_qkd_policy_is_set_by_two(sam, sue):
    page = reverse("admin:device_sessions_qkdpolicy_set_policy")
    sam.post(page, {"group": "ward", "policy": "required"})
    assert not QkdPolicy.objects.exists()
    decide(sue, ApprovalRequest.objects.get(), "approve")
    assert QkdPolicy.objects.get(group="ward").policy == "required"


def test_a_rule_is_tuned_by_two(sam, sue):
    populate()
    rule = RuleSetting.objects.get(rule="token-reuse") if RuleSetting.objects.filter(rule="token-reuse") else None
    rule = rule or RuleSetting.objects.first()
    page = reverse("admin:monitor_rulesetting_tune", args=(rule.pk,))
    initial = sam.get(page).context["form"].initial
    posted = {**initial, "threshold": "77", "reason": "too loud"}
    sam.post(page, {name: value for name, value in posted.items() if value not in (None, False)})
    row = ApprovalRequest.objects.get()
    assert "too loud" in sue.get(reverse("console:approval", args=(row.pk,))).content.decode()
    decide(sue, row, "approve")
    rule.refresh_from_db()
    assert rule.threshold == 77


def test_a_federation_opens_no_round_before_another_person_has_seen_its_policy(olga):
    page = reverse("console:federation-new")
    answer = olga.post(page, filled())
    federation = Federation.objects.get()
    assert answer["Location"] == reverse("console:federation", args=(federation.pk,))
    assert federation.state == FederationState.PAUSED
    olga.post(reverse("admin:training_federation_resume", args=(federation.pk,)), {"confirmed": "yes"})
    federation.refresh_from_db()
    assert federation.state == FederationState.PAUSED
    person("otto", Role.OPERATOR)
    otto, row = Browser().sign_in("otto"), ApprovalRequest.objects.get()
    seen = otto.get(reverse("console:approval", args=(row.pk,))).content.decode()
    assert reverse("admin:training_federation_change", args=(federation.pk,)) in seen
    decide(otto, row, "approve")
    federation.refresh_from_db()
    assert federation.state == FederationState.ACTIVE


def set_roles_of(browser, user, *roles):
    page = reverse("admin:auth_user_set_roles", args=(user.pk,))
    browser.post(page, {"confirmed": "yes", "reason": "promoted", "roles": roles})
    return ApprovalRequest.objects.latest("asked_at")


def test_roles_are_given_by_two(sam, sue):
    eve = person("eve", Role.VIEWER)
    row = set_roles_of(sam, eve, Role.OPERATOR, Role.AUDITOR)
    assert roles_of(eve) == [Role.VIEWER]
    decide(sue, row, "approve")
    assert roles_of(eve) == [Role.OPERATOR, Role.AUDITOR]


def test_an_officer_cannot_make_a_second_person_of_their_own(sam):
    eve = person("eve", Role.VIEWER)
    set_roles_of(sam, eve, Role.SECURITY_OFFICER)
    page = reverse("admin:auth_user_password_change", args=(eve.pk,))
    sam.post(page, {"password1": "yet another long one", "password2": "yet another long one"})
    eve.refresh_from_db()
    assert eve.check_password(PASSWORD)
    assert roles_of(eve) == [Role.VIEWER]


def test_not_even_a_superuser_gives_rights_alone(sam):
    root = Browser()
    User.objects.create_superuser("root", password=PASSWORD)
    root.sign_in("root")
    eve = person("eve", Role.VIEWER)
    page = reverse("admin:auth_user_change", args=(eve.pk,))
    fields = {"username": "eve", "is_superuser": "on", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    root.post(page, fields)
    eve.refresh_from_db()
    assert not eve.is_superuser
    group = reverse("admin:auth_group_change", args=(eve.groups.get().pk,))
    assert root.post(group, {"name": "Viewer", "permissions": ["1"]}).status_code == 403


def test_to_keep_somebody_out_takes_one_person_at_any_time(sam):
    eve = person("eve", Role.VIEWER)
    page = reverse("admin:auth_user_keep_out", args=(eve.pk,))
    sam.post(page, {"confirmed": "yes", "reason": "stolen badge"})
    eve.refresh_from_db()
    assert not eve.is_active


@pytest.fixture
def script():
    key = create_key(
        "script", scopes=Scope.values, lifetime=timedelta(days=1), actor="operator:root", now=timezone.now()
    )
    return Client(headers={"Authorization": f"Bearer {key.text}"})


def test_an_api_key_alone_does_nothing_that_takes_two(script, device):
    federation = make_federation(group="")
    version = federation.current_version
    going_back = {"number": 0, "reason": "x"}
    for address, body in (
        (f"/api/operator/devices/{device.pk}/revoke", {"reason": "stolen"}),
        (f"/api/operator/models/{version.pk}/release", {}),
        (f"/api/operator/federations/{federation.pk}/roll-back", going_back),
        (f"/api/operator/federations/{federation.pk}/resume", {}),
    ):
        answer = script.post(address, body, content_type="application/json")
        assert answer.status_code == 409, address
        assert answer.json()["type"] == "urn:qflare:problem:approval-required"
        assert "admin" in answer.json()["detail"]
    assert state_of(device) == DeviceState.ACTIVE


def test_an_api_key_still_suspends(script, device):
    address = f"/api/operator/devices/{device.pk}/suspend"
    assert script.post(address, {"reason": "x"}, content_type="application/json").status_code == 200


@pytest.fixture
def split(tmp_path):
    """Run the command that splits the escrow."""
    people = []
    for name in ("carol", "dave"):
        (tmp_path / f"{name}.pub").write_text(make_custodian_key()[1])
        people.append(f"--custodian={name}={tmp_path}/{name}.pub")

    def run(number, *options):
        out = StringIO()
        call_command("escrow_split", *people, "--threshold=2", f"--out={tmp_path}/{number}", *options, stdout=out)
        return out.getvalue()

    return run


def ask_in_a_shell(command="escrow.split"):
    out = StringIO()
    call_command("request_approval", command, "--remark", "a custodian left", stdout=out)
    return ApprovalRequest.objects.get(pk=out.getvalue().splitlines()[0])


def test_the_escrow_is_split_once_by_an_approval_of_another(sam, split):
    with pytest.raises(CommandError, match="takes two persons"):
        split(1)
    row = ask_in_a_shell()
    with pytest.raises(CommandError, match="no approval"):
        split(2, f"--approval={row.pk}")
    assert "a custodian left" in sam.get(reverse("console:approval", args=(row.pk,))).content.decode()
    decide(sam, row, "approve")
    split(3, f"--approval={row.pk}")
    assert EscrowSplit.objects.count() == 1
    assert told("approval.used") == ["The approval of Split the escrow of the server keys was used"]
    with pytest.raises(CommandError, match="no approval"):
        split(4, f"--approval={row.pk}")


def test_an_approval_of_another_command_or_of_yesterday_is_none(sam, split):
    recover = ask_in_a_shell("escrow.recover")
    decide(sam, recover, "approve")
    with pytest.raises(CommandError, match="no approval"):
        split(1, f"--approval={recover.pk}")
    row = ask_in_a_shell()
    decide(sam, row, "approve")
    ApprovalRequest.objects.filter(pk=row.pk).update(decided_at=timezone.now() - timedelta(hours=25))
    with pytest.raises(CommandError, match="no approval"):
        split(2, f"--approval={row.pk}")
    assert not EscrowSplit.objects.exists()


def test_a_command_that_fails_keeps_its_approval(sam, split, tmp_path):
    row = ask_in_a_shell()
    decide(sam, row, "approve")
    (tmp_path / "1").write_text("a file where the folder should be")
    with pytest.raises(CommandError):
        split(1, f"--approval={row.pk}")
    split(2, f"--approval={row.pk}")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.AUDITOR])
def test_the_escrow_is_a_security_officers_to_approve(role):
    person("rose", role)
    row = ask_in_a_shell()
    decide(Browser().sign_in("rose"), row, "approve")
    assert row.state == ApprovalState.PENDING


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


def test_set_roles_of_nobody_is_refused():
    with pytest.raises(Refusal, match="no such person"):
        set_roles(10**6, [Role.VIEWER], reason="x", actor="operator:root")


def response_to_rejected_updates(action):
    """Have the monitor answer an attack of edge-1 on the federation digits by this action."""
    scene = Scene()
    scene.tuned("rejected-updates", responses=[action], threshold=1)
    payload = {"device": "edge-1", "reason": "consensus-cosine", "federation": "digits", "round_number": 1}
    scene.event("update.rejected", actor="enclave", **payload)
    (incident,) = scene.look()
    return incident.responses.get()


UNDONE = {"confirmed": "yes", "reason": "a false alarm"}


def test_what_the_monitor_paused_opens_rounds_when_another_person_agrees(sam, sue, device):
    federation = make_federation("digits")
    response = response_to_rejected_updates("pause-federation")
    page = reverse("admin:monitor_response_undo", args=(response.pk,))
    assert "this takes two persons" in sam.get(page).content.decode()
    sam.post(page, UNDONE)
    federation.refresh_from_db()
    assert federation.state == FederationState.PAUSED
    row = ApprovalRequest.objects.get(subject="policy")
    decide(sue, row, "approve")
    federation.refresh_from_db()
    assert (row.state, federation.state) == ("approved", FederationState.ACTIVE)
    assert Event.objects.get(kind="response.undone").actor == "operator:sam"


def test_a_device_that_the_monitor_suspended_is_resumed_by_one_person(sam, device):
    response = response_to_rejected_updates("suspend-device")
    page = reverse("admin:monitor_response_undo", args=(response.pk,))
    assert "this takes two persons" not in sam.get(page).content.decode()
    sam.post(page, UNDONE)
    assert state_of(device) == DeviceState.ACTIVE
    assert not ApprovalRequest.objects.exists()
