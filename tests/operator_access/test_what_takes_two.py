"""What takes two persons: models, policies, roles, the escrow, API keys, and what the monitor has paused."""

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Event
from devices.models import DeviceState
from keyring.custodians import make_custodian_key
from keyring.models import EscrowSplit
from monitor.models import RuleSetting
from operator_access.models import ApprovalRequest, ApprovalState
from operator_access.roles import Role
from operator_access.services.people import roles_of, set_roles
from operator_api.scopes import Scope
from operator_api.services import create_key
from qflare_protocol.errors import Refusal
from sessions.models import QkdPolicy
from tests.console.test_new_federation import filled
from tests.factories import make_federation, populate
from tests.monitor.conftest import Scene
from tests.operator_access.conftest import PASSWORD, Browser, person, told
from tests.operator_access.two_persons import decide, device, state_of, sue, two_persons
from training.models import Federation, FederationState

__all__ = ["device", "sue", "two_persons"]


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
