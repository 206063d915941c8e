"""Whatever an operator does by hand is an event: signing in, passwords, permissions, rows of other packages."""

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from audit.models import Event

PASSWORD = "a long enough password"


class Since:
    """Remembers the last event before a test begins."""

    last_id = 0


def begin():
    """Leave out of `told` what has happened so far."""
    Since.last_id = max(Event.objects.values_list("id", flat=True), default=0)


def told():
    """Return every event since `begin` as (actor, sentence), oldest first."""
    return [(event.actor, event.description) for event in Event.objects.filter(id__gt=Since.last_id).order_by("id")]


def sign_in(name, password):
    client = Client()
    client.post(reverse("account_login"), {"login": name, "password": password})
    return client


@pytest.fixture
def ada(db):
    ada = User.objects.create_superuser("ada", password=PASSWORD)
    begin()
    return ada


def test_signing_in_and_out_are_events(ada):
    client = sign_in("ada", PASSWORD)
    client.post(reverse("admin:logout"))
    assert told() == [("operator:ada", "Operator ada signed in"), ("operator:ada", "Operator ada signed out")]


def test_a_failed_sign_in_is_an_event_without_what_was_typed(ada):
    sign_in("ada", "not the password")
    assert told() == [("stranger", "A sign-in as ada failed")]
    assert "not the password" not in str(Event.objects.latest("id").payload)


def test_the_lock_after_too_many_failures_is_an_event(ada):
    for _ in range(5):
        sign_in("ada", "not the password")
    assert ("stranger", "Sign-in as ada is locked after too many failures") in told()


def test_a_new_password_is_an_event_wherever_it_is_set(ada):
    ada.set_password("another long password")
    ada.save()
    assert told() == [("system", "The password of operator ada was changed")]
    assert "another" not in str(Event.objects.latest("id").payload)


@pytest.fixture
def root_browser(ada):
    client = Client()
    client.force_login(ada, backend="django.contrib.auth.backends.ModelBackend")
    begin()
    return client


def change(client, row, **fields):
    page = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=(row.pk,))
    form = client.get(page).context["adminform"].form
    values = {name: form.initial.get(name) for name in form.fields if form.initial.get(name) not in (None, False)}
    answer = client.post(page, {**values, **fields})
    assert answer.status_code == 302, answer.context["errors"]


def test_granted_and_withdrawn_permissions_are_named(root_browser):
    group = Group.objects.create(name="operators")
    view, issue = (Permission.objects.get(codename=name) for name in ("view_device", "change_federation"))
    group.permissions.add(view)
    change(root_browser, group, name="operators", permissions=[issue.pk])
    sentence = "granted training.change_federation; withdrawn devices.view_device"
    assert ("operator:ada", f"Permissions of group operators changed: {sentence}") in told()


def test_a_person_made_superuser_is_named(root_browser):
    eve = User.objects.create_user("eve", password=PASSWORD)
    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00", "last_login_0": "", "last_login_1": ""}
    change(
        root_browser, eve, username="eve", is_active="on", is_superuser="on", groups=[], user_permissions=[], **joined
    )
    assert ("operator:ada", "Permissions of user eve changed: granted is_superuser; withdrawn nothing") in told()


def test_a_change_without_permissions_names_its_fields_only(root_browser):
    group = Group.objects.create(name="operators")
    change(root_browser, group, name="people", permissions=[])
    assert told() == [("operator:ada", "group people changed by hand: Name")]


def test_rows_added_and_deleted_by_hand_are_events(root_browser):
    root_browser.post(reverse("admin:django_celery_beat_intervalschedule_add"), {"every": 7, "period": "hours"})
    row = IntervalSchedule.objects.get(every=7)
    list_page = reverse("admin:django_celery_beat_intervalschedule_changelist")
    root_browser.post(list_page, {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert not IntervalSchedule.objects.filter(pk=row.pk).exists()
    assert told() == [
        ("operator:ada", "interval every 7 hours added by hand"),
        ("operator:ada", "interval every 7 hours deleted by hand"),
    ]


@pytest.mark.django_db(transaction=True)
def test_a_password_set_for_somebody_else_names_who_set_it():
    root, eve = User.objects.create_superuser("root", password=PASSWORD), User.objects.create_user("eve")
    client = Client()
    client.force_login(root, backend="django.contrib.auth.backends.ModelBackend")
    begin()
    new = {"password1": "yet another long one", "password2": "yet another long one", "usable_password": "true"}
    answer = client.post(reverse("admin:auth_user_password_change", args=(eve.pk,)), new)
    assert answer.status_code == 302
    eve.refresh_from_db()
    assert eve.check_password("yet another long one")
    assert ("operator:root", "user eve changed by hand: password") in told()


@pytest.mark.parametrize(("action", "what"), [("disable_tasks", "disabled"), ("enable_tasks", "enabled")])
def test_a_schedule_entry_that_is_switched_is_an_event(root_browser, action, what):
    every = IntervalSchedule.objects.create(every=7, period="hours")
    entry = PeriodicTask.objects.create(name="audit-sequence-2", task="audit.tasks.sequence", interval=every)
    page = reverse("admin:django_celery_beat_periodictask_changelist")
    root_browser.post(page, {"action": action, "_selected_action": [entry.pk]})
    entry.refresh_from_db()
    assert entry.enabled == (what == "enabled")
    assert ("operator:ada", f"periodic task {entry} changed by hand: {what}") in told()


def test_sign_ins_beyond_the_limit_do_not_fill_the_log(ada, settings):
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"refusal-events": "2/m"}
    for number in range(4):
        sign_in(f"nobody-{number}", "nothing")
    assert len(told()) == 2
