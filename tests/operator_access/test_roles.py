"""Roles: the database is as the table says, and each page is reached by exactly the roles it is meant for."""

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.urls import reverse

from operator_access.roles import MEANINGS, TABLE, Role, permissions_of_role, set_up_roles
from operator_access.services.people import create_operator, keep_out, let_in, roles_of, set_roles
from qflare_protocol.errors import Refusal
from tests.factories import populate
from tests.operator_access.conftest import PASSWORD, Browser, person, told

ACTOR = "operator:root"


def stored(role):
    return set(Group.objects.get(name=role).permissions.values_list("content_type__app_label", "codename"))


@pytest.mark.parametrize("role", Role)
def test_a_group_has_exactly_the_permissions_of_the_table(role):
    assert stored(role) == set(permissions_of_role(role))


def test_what_somebody_added_or_took_by_hand_is_set_right_again():
    group = Group.objects.get(name=Role.VIEWER)
    group.permissions.set(Permission.objects.filter(codename="delete_device"))
    set_up_roles(apps)
    assert stored(Role.VIEWER) == set(permissions_of_role(Role.VIEWER))
    assert Group.objects.count() == len(Role)


def test_every_row_of_the_table_is_a_model_with_a_page_and_every_role_has_its_words():
    inlines = {inline.model for its_admin in admin.site._registry.values() for inline in its_admin.inlines}
    for name in set(TABLE) - {"operator_access.approvalrequest"}:  # it has a page of its own
        assert admin.site.is_registered(apps.get_model(name)) or apps.get_model(name) in inlines, name
    assert set(MEANINGS) == set(Role)


def test_who_only_looks_changes_nothing():
    viewer = {codename.partition("_")[0] for _, codename in permissions_of_role(Role.VIEWER)}
    assert viewer == {"view"}
    changed_by_auditors = {codename for _, codename in permissions_of_role(Role.AUDITOR) if codename[:5] != "view_"}
    assert changed_by_auditors == {"change_event", "change_entry", "change_checkpoint"}  # to verify the log


OPERATOR, OFFICER, AUDITOR = Role.OPERATOR, Role.SECURITY_OFFICER, Role.AUDITOR
# page of one row, or of a list: who reaches it
REACHED = {
    "devices_device_suspend": {OPERATOR, OFFICER},
    "devices_device_resume": {OPERATOR, OFFICER},
    "devices_device_label": {OPERATOR, OFFICER},
    "devices_device_demand_new_keys": {OPERATOR, OFFICER},
    "devices_device_revoke": {OFFICER},
    "enrollment_enrolmenttoken_issue": {OPERATOR, OFFICER},
    "enrollment_enrolmenttoken_revoke": {OPERATOR, OFFICER},
    "training_federation_start_round": {OPERATOR},
    "training_federation_pause": {OPERATOR},
    "training_federation_schedule": {OPERATOR},
    "training_federation_resume": {OPERATOR},
    "training_federation_roll_back": {OPERATOR},
    "training_round_extend": {OPERATOR},
    "training_round_cancel": {OPERATOR},
    "training_participation_quarantine": {OPERATOR},
    "training_modelversion_release": {OPERATOR},
    "device_sessions_qkdpolicy_set_policy": {OFFICER},
    "monitor_incident_acknowledge": {OPERATOR, OFFICER},
    "monitor_incident_assign_to_me": {OPERATOR, OFFICER},
    "monitor_incident_note": {OPERATOR, OFFICER},
    "monitor_incident_close": {OPERATOR, OFFICER},
    "monitor_response_undo": {OPERATOR, OFFICER},
    "monitor_rulesetting_tune": {OFFICER},
    "monitor_notificationchannel_make": {OFFICER},
    "monitor_notificationchannel_renew_secret": {OFFICER},
    "monitor_notificationchannel_switch_on": {OFFICER},
    "monitor_notificationchannel_switch_off": {OFFICER},
    "operator_api_apikey_create": {OFFICER},
    "operator_api_apikey_revoke": {OFFICER},
    "auth_user_set_roles": {OFFICER},
    "auth_user_reset_second_factor": {OFFICER},
    "auth_user_keep_out": {OFFICER},
    "auth_user_let_in": {OFFICER},
    "audit_event_verify": {OFFICER, AUDITOR},
    "audit_entry_verify": {OFFICER, AUDITOR},
    "audit_checkpoint_verify": {OFFICER, AUDITOR},
    "audit_entry_download_proof": {OPERATOR, OFFICER, AUDITOR},
}

LEADS_ELSEWHERE = {f"audit_{model}_verify": "/log-entries/verify" for model in ("event", "entry", "checkpoint")}


def pages():
    """Every page that an admin adds to Django's own, as (name, model, of one row)."""
    found = {}
    for model, its_admin in admin.site._registry.items():
        for attribute, of_one in (("actions_detail", True), ("actions_list", False)):
            for action in getattr(its_admin, attribute, ()):
                found[f"{model._meta.app_label}_{model._meta.model_name}_{action}"] = (model, of_one)
    return found


def test_the_matrix_names_every_page_there_is():
    assert set(pages()) == set(REACHED)


@pytest.mark.parametrize("role", Role)
def test_each_page_is_reached_by_exactly_the_roles_that_are_meant(role):
    populate()
    person("rose", role)
    browser = Browser().sign_in("rose")
    reached = {name for name, (model, of_one) in pages().items() if _reaches(browser, name, model, of_one)}
    assert reached == {name for name, roles in REACHED.items() if role in roles}


def _reaches(browser, name, model, of_one):
    row = model.objects.first() if of_one else None
    arguments = (row.pk if row is not None else 1,) if of_one else ()
    answer = browser.get(reverse(f"admin:{name}", args=arguments))
    if answer.status_code == 302:
        assert answer["Location"] == LEADS_ELSEWHERE[name]
        answer = browser.get(answer["Location"])
    assert answer.status_code in (200, 403, 404), (name, answer.status_code)
    return answer.status_code != 403


@pytest.mark.parametrize("role", Role)
def test_lists_are_seen_by_exactly_the_roles_that_are_meant(role):
    person("rose", role)
    browser = Browser().sign_in("rose")
    views = {f"{app}.{codename[5:]}" for app, codename in permissions_of_role(role) if codename.startswith("view_")}
    for model in admin.site._registry:
        page = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        expected = 200 if model._meta.label_lower in views else 403
        assert browser.get(reverse(page)).status_code == expected, model


def test_somebody_is_created_from_a_shell_with_a_role(tmp_path, capsys):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    call_command("create_operator", "olga", "--role", "operator", "--role", "auditor", "--password-file", str(file))
    assert "second factor" in capsys.readouterr().out
    browser = Browser()
    assert browser.give_password("olga").status_code == 302
    assert told("operator.created") == ["Operator olga created with the roles: Operator, Auditor"]


@pytest.mark.parametrize("password", ["short", "password1234", "olga olga olga"])
def test_a_weak_password_makes_nobody(tmp_path, password):
    file = tmp_path / "password"
    file.write_text(password)
    with pytest.raises(CommandError):
        call_command("create_operator", "olga olga", "--role", "operator", "--password-file", str(file))
    assert told("operator.created") == []


def test_a_name_is_given_once():
    person("olga", Role.OPERATOR)
    with pytest.raises(Refusal, match="already"):
        create_operator("olga", roles=[Role.VIEWER], password=PASSWORD, actor=ACTOR)


def test_roles_are_given_and_taken_with_a_reason_and_an_event():
    olga = person("olga", Role.VIEWER)
    set_roles(olga.pk, [Role.AUDITOR, Role.OPERATOR], reason="she is promoted", actor=ACTOR)
    assert roles_of(olga) == [Role.OPERATOR, Role.AUDITOR]
    assert told("operator.roles_set") == [
        "Roles of operator olga changed from Viewer to Operator, Auditor: she is promoted"
    ]


def test_without_a_role_nobody_is_staff():
    olga = person("olga", Role.VIEWER)
    set_roles(olga.pk, [], reason="she left", actor=ACTOR)
    olga.refresh_from_db()
    assert not olga.is_staff


@pytest.mark.parametrize(("wanted", "reason"), [([Role.OPERATOR], " "), ([Role.VIEWER], "no change")])
def test_roles_are_not_set_without_a_reason_or_a_change(wanted, reason):
    olga = person("olga", Role.VIEWER)
    with pytest.raises(Refusal):
        set_roles(olga.pk, wanted, reason=reason, actor=ACTOR)
    assert roles_of(olga) == [Role.VIEWER]
    assert told("operator.roles_set") == []


def test_somebody_is_kept_out_and_let_in_again():
    olga = person("olga", Role.VIEWER)
    browser = Browser().sign_in("olga")
    keep_out(olga.pk, reason="lost badge", actor=ACTOR)
    assert "login" in browser.get(reverse("console:overview"))["Location"]
    assert Browser().give_password("olga").status_code in (200, 302)
    with pytest.raises(Refusal):
        keep_out(olga.pk, reason="again", actor=ACTOR)
    let_in(olga.pk, reason="found", actor=ACTOR)
    assert told("operator.kept_out", "operator.let_in") == [
        "Operator olga may not sign in any more: lost badge",
        "Operator olga may sign in again: found",
    ]


def test_every_page_of_the_admin_has_its_line_in_the_table():
    registered = {model._meta.label_lower for model in admin.site._registry}
    of_superusers = {f"django_celery_beat.{kind}schedule" for kind in ("clocked", "crontab", "solar")}
    assert registered - set(TABLE) == of_superusers


@pytest.fixture
def root():
    User.objects.create_superuser("root", password=PASSWORD)
    return Browser().sign_in("root")


def delete(browser, group):
    browser.post(reverse("admin:auth_group_delete", args=(group.pk,)), {"post": "yes"})
    selection = {"action": "delete_selected", "_selected_action": [str(group.pk)], "post": "yes"}
    browser.post(reverse("admin:auth_group_changelist"), selection)
    return not Group.objects.filter(pk=group.pk).exists()


def test_a_group_is_deleted_but_no_role(root):
    assert delete(root, Group.objects.create(name="night shift"))
    assert not delete(root, Group.objects.get(name=Role.AUDITOR))


def test_where_access_takes_two_persons_no_group_is_deleted_alone(root, settings):
    settings.QFLARE_SECOND_PERSON = ["access"]
    assert not delete(root, Group.objects.create(name="night shift"))
