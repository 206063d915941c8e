"""What the admin shows, and what nobody can do in it."""

import html
import re

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import RequestFactory
from django.urls import reverse
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

from enrollment.models import EnrolmentAttempt
from operator_admin.base import ModelAdmin
from operator_admin.tones import STATE_TONES
from qflare_protocol.aggregation_policy import PROTECTIONS
from qflare_protocol.sealing_tier import sealing_tier
from sessions.models import Exchange

EDITABLE = {User, Group, PeriodicTask, IntervalSchedule, CrontabSchedule, ClockedSchedule, SolarSchedule}
REGISTERED = sorted(admin.site._registry.items(), key=lambda item: item[0]._meta.label)
READ_ONLY = [(model, model_admin) for model, model_admin in REGISTERED if model not in EDITABLE]

each_read_only = pytest.mark.parametrize(
    ("model", "model_admin"), READ_ONLY, ids=[model._meta.label for model, _ in READ_ONLY]
)
each_registered = pytest.mark.parametrize(
    ("model", "model_admin"), REGISTERED, ids=[model._meta.label for model, _ in REGISTERED]
)


def address(model, page, *arguments):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=arguments)


@each_registered
def test_every_admin_wears_the_theme(model, model_admin):
    assert isinstance(model_admin, ModelAdmin)


@pytest.mark.parametrize("model", [EnrolmentAttempt, Exchange])
def test_tables_that_hold_only_secrets_and_ciphertexts_are_not_shown(model):
    assert not admin.site.is_registered(model)


@each_read_only
@pytest.mark.django_db
def test_not_even_a_superuser_may_add_change_or_delete_a_machine_written_row(model, model_admin):
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_active=True, is_staff=True)
    assert not model_admin.has_add_permission(request)
    assert not model_admin.has_change_permission(request)
    assert not model_admin.has_delete_permission(request)
    assert "delete_selected" not in model_admin.get_actions(request)


@each_read_only
def test_posting_to_a_machine_written_row_changes_nothing(model, model_admin, site, root):
    assert root.post(address(model, "add"), {}).status_code == 403
    row = model.objects.first()
    if row is not None:
        assert root.post(address(model, "change", row.pk), {"state": "active", "name": "x"}).status_code == 403
        assert root.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
        assert model.objects.filter(pk=row.pk).exists()


@each_registered
def test_every_list_and_every_row_opens(model, model_admin, site, root):
    listed = root.get(address(model, "changelist"))
    assert listed.status_code == 200
    row = model.objects.first()
    if row is not None:
        shown = root.get(address(model, "change", row.pk))
        assert shown.status_code == 200
        assert "(&#x27;" not in shown.content.decode(), "a state is shown as Python prints a pair"
        for secret in site.secrets():
            assert secret not in listed.content.decode()
            assert secret not in shown.content.decode()


@each_registered
def test_every_list_can_be_searched(model, model_admin, site, root):
    if model_admin.search_fields:
        assert root.get(address(model, "changelist"), {"q": "edge-0"}).status_code == 200


@each_registered
def test_a_list_does_not_ask_once_for_each_row(model, model_admin, site, root, django_assert_max_num_queries):
    with django_assert_max_num_queries(14):
        root.get(address(model, "changelist"))


@each_read_only
def test_a_machine_written_row_shows_only_what_its_admin_names(model, model_admin):
    assert model_admin.fields
    assert not [name for name in (*model_admin.fields, *model_admin.list_display) if "wrapped" in name]


def test_the_tables_of_the_populated_site_are_not_empty(site):
    empty = {model._meta.model_name for model, _ in READ_ONLY if not model.objects.exists()}
    assert empty == {"accessattempt", "accesslog", "accessfailurelog"}


@pytest.mark.parametrize("state", ["unused", "used", "expired", "revoked"])
def test_tokens_are_filtered_by_state(site, root, state):
    page = root.get(address(type(site.token.row), "changelist"), {"state": state})
    assert page.status_code == 200
    # the token was issued long before the test runs, so by now it has expired
    assert ("edge-new" in page.content.decode()) == (state == "expired")


def test_the_index_and_the_schedule_form_open(site, root):
    assert root.get(reverse("admin:index")).status_code == 200
    assert b"training.tasks.tick" in root.get(address(PeriodicTask, "add")).content
    assert root.get(address(User, "add")).status_code == 200


def test_binary_columns_are_short_hexadecimal(site, root):
    page = root.get(address(type(site.enclave), "changelist")).content.decode()
    assert "6d6d6d6d6d6d6d6d…" in page
    assert "6d" * 9 not in page
    assert "memory at" not in page


def test_an_enclaves_sealing_tier_is_shown_with_what_it_leaves_open(site, root):
    type(site.enclave).objects.update(protections=dict.fromkeys(PROTECTIONS, True) | {"namespaces": False})
    page = root.get(address(type(site.enclave), "change", site.enclave.pk)).content.decode()
    assert "separate" in page
    assert html.escape(sealing_tier("separate").not_protected_against) in page


def test_a_state_is_shown_as_word_and_colour(site, root):
    page = root.get(address(type(site.running), "change", site.running.pk)).content.decode()
    assert re.search(r"bg-blue-100[^>]*>\s*Open\s*<", page)
    listed = root.get(address(type(site.completed), "changelist")).content.decode()
    assert re.search(r"bg-green-100[^>]*>\s*Completed\s*<", listed)


def test_times_are_written_to_the_second(site, root):
    assert "2026-03-01 12:00:00" in root.get(address(type(site.running), "changelist")).content.decode()


@each_registered
def test_every_state_there_is_has_its_colour(model, model_admin):
    states = {value for field in model._meta.fields if field.name == "state" for value, _ in field.choices or ()}
    assert states <= set(STATE_TONES)
