"""What an operator may ask for, how it is asked back, and who may not."""

import uuid
from datetime import timedelta

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from kombu.exceptions import OperationalError as BrokerError

from audit.models import Event
from devices.models import Device, DeviceState
from sessions.models import SessionState
from tests.factories import make_federation
from training.models import Federation, FederationState, Round, RoundState
from training.services.rounds import cancel_round, open_round
from training.tasks import prepare_round


def page_of(row, operation):
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{operation}", args=(row.pk,))


def list_of(row):
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_changelist")


def ask(client, row, operation, **answers):
    """Answer the page of an operation and return the messages that the operator sees next."""
    answer = client.post(page_of(row, operation), {"confirmed": "yes", **answers})
    assert answer.status_code == 302
    return [str(message) for message in get_messages(client.get(answer["Location"]).wsgi_request)]


@pytest.fixture
def hints(monkeypatch):
    """Collect the hints that would go to the broker."""
    sent = []
    monkeypatch.setattr(prepare_round, "apply_async", lambda arguments, **options: sent.append(arguments))
    return sent


ON_ONE = [
    ("device", "suspend"),
    ("device", "resume"),
    ("device", "revoke"),
    ("token", "revoke"),
    ("federation", "start_round"),
    ("federation", "pause"),
    ("federation", "resume"),
    ("federation", "roll_back"),
    ("federation", "schedule"),
    ("device", "label"),
    ("running", "extend"),
    ("running", "cancel"),
]


def row_of(site, name):
    return {
        "device": site.devices[0],
        "token": site.token.row,
        "federation": site.federation,
        "running": site.running,
    }[name]


@pytest.mark.parametrize(("name", "operation"), ON_ONE)
def test_the_page_asks_first_and_changes_nothing(site, olga, name, operation):
    row = row_of(site, name)
    before = Event.objects.count()
    answer = olga.get(page_of(row, operation))
    assert answer.status_code == 200
    assert str(row) in answer.content.decode()
    assert Event.objects.count() == before


@pytest.mark.parametrize(("name", "operation"), ON_ONE)
def test_a_viewer_is_refused(site, vera, name, operation):
    row = row_of(site, name)
    before = Event.objects.count()
    assert vera.get(page_of(row, operation)).status_code == 403
    assert vera.post(page_of(row, operation), {"confirmed": "yes", "reason": "because"}).status_code == 403
    assert Event.objects.count() == before


@pytest.mark.parametrize(("name", "operation"), ON_ONE)
def test_a_stranger_is_sent_to_the_login(site, client, name, operation):
    answer = client.post(page_of(row_of(site, name), operation), {"confirmed": "yes", "reason": "because"})
    assert answer.status_code == 302
    assert "/admin/login/" in answer["Location"]


def test_a_viewer_sees_no_button(site, vera, olga):
    page = reverse("admin:devices_device_change", args=(site.devices[0].pk,))
    assert page_of(site.devices[0], "suspend") in olga.get(page).content.decode()
    assert page_of(site.devices[0], "suspend") not in vera.get(page).content.decode()


def test_a_forged_form_is_refused(site, olga):
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = olga.cookies
    assert strict.post(page_of(site.devices[0], "suspend"), {"confirmed": "yes", "reason": "x"}).status_code == 403
    assert Device.objects.get(pk=site.devices[0].pk).state == DeviceState.ACTIVE


@pytest.mark.parametrize("key", ["3b5a2c1e-0000-4000-8000-000000000000", "not-a-uuid"])
def test_a_row_that_is_not_there_is_a_404(site, olga, key):
    assert olga.get(reverse("admin:devices_device_suspend", args=(key,))).status_code == 404


def test_suspending_ends_the_sessions_and_names_the_operator_and_the_reason(site, olga):
    device = site.devices[0]
    (message,) = ask(olga, device, "suspend", reason="seen on a flea market")
    assert message == "edge-0 is suspended and its sessions have ended."
    assert Device.objects.get(pk=device.pk).state_reason == "seen on a flea market"
    site.session.refresh_from_db()
    assert site.session.state == SessionState.ENDED
    event = Event.objects.filter(kind="device.suspended").first()
    assert event.actor == "operator:olga"
    assert event.payload["reason"] == "seen on a flea market"


def test_a_suspended_device_is_resumed_and_then_revoked(site, olga):
    device = site.devices[1]
    ask(olga, device, "suspend", reason="first")
    ask(olga, device, "resume", reason="found again")
    assert Device.objects.get(pk=device.pk).state == DeviceState.ACTIVE
    ask(olga, device, "revoke", reason="stolen")
    assert Device.objects.get(pk=device.pk).state == DeviceState.REVOKED


@pytest.mark.parametrize("reason", ["", "   "])
def test_without_a_reason_the_page_asks_again(site, olga, reason):
    answer = olga.post(page_of(site.devices[0], "suspend"), {"confirmed": "yes", "reason": reason})
    assert answer.status_code == 200
    assert "This field is required" in answer.content.decode()
    assert Device.objects.get(pk=site.devices[0].pk).state == DeviceState.ACTIVE


def test_a_refusal_becomes_a_message(site, olga):
    (message,) = ask(olga, site.devices[0], "resume", reason="because")
    assert message == "edge-0: The device is active; it cannot become active from there."


def test_several_devices_are_suspended_after_one_question(site, olga):
    selection = {"action": "suspend_selected", "_selected_action": [str(device.pk) for device in site.devices[:2]]}
    question = olga.post(list_of(site.devices[0]), selection)
    assert question.status_code == 200
    assert question.content.decode().count('name="_selected_action"') == 2
    answer = olga.post(list_of(site.devices[0]), {**selection, "confirmed": "yes", "reason": "recall"})
    assert answer.status_code == 302
    assert set(Device.objects.filter(state="suspended").values_list("name", flat=True)) == {"edge-0", "edge-1"}


def test_one_refused_of_several_does_not_keep_the_others_from_being_done(site, olga):
    ask(olga, site.devices[0], "revoke", reason="stolen")
    chosen = [str(device.pk) for device in site.devices[:2]]
    answers = {"action": "suspend_selected", "_selected_action": chosen, "confirmed": "yes", "reason": "recall"}
    answer = olga.post(list_of(site.devices[0]), answers)
    messages = {str(message) for message in get_messages(olga.get(answer["Location"]).wsgi_request)}
    assert messages == {
        "edge-0: The device is revoked; it cannot become suspended from there.",
        "edge-1 is suspended and its sessions have ended.",
    }


def test_a_viewer_has_no_action_on_the_list(site, vera):
    answers = {
        "action": "suspend_selected",
        "_selected_action": [str(site.devices[0].pk)],
        "confirmed": "yes",
        "reason": "x",
    }
    vera.post(list_of(site.devices[0]), answers)
    assert Device.objects.get(pk=site.devices[0].pk).state == DeviceState.ACTIVE


def test_a_token_is_revoked_once(site, olga):
    (done,) = ask(olga, site.token.row, "revoke")
    assert done.endswith("is revoked.")
    (refused,) = ask(olga, site.token.row, "revoke")
    assert refused.endswith(": The token is used or revoked already.")


def test_a_federation_is_paused_and_resumed(site, olga):
    ask(olga, site.federation, "pause")
    assert Federation.objects.get(pk=site.federation.pk).state == FederationState.PAUSED
    (refused,) = ask(olga, site.federation, "pause")
    assert refused == "digits: The federation is paused, not active."
    ask(olga, site.federation, "resume")
    assert Federation.objects.get(pk=site.federation.pk).state == FederationState.ACTIVE


def test_a_started_round_is_hinted_to_a_worker(site, olga, hints):
    other = make_federation("other")
    (message,) = ask(olga, other, "start_round")
    opened = other.rounds.get()
    assert message == "Round 1 of other is being prepared; 4 devices are invited."
    assert hints == [(str(opened.id),)]
    assert Event.objects.filter(kind="round.created").first().actor == "operator:olga"


def test_a_round_starts_although_the_broker_is_down(site, olga, monkeypatch):
    def down(*arguments, **options):
        raise BrokerError("connection refused")

    monkeypatch.setattr(prepare_round, "apply_async", down)
    other = make_federation("other")
    ask(olga, other, "start_round")
    assert other.rounds.get().state == RoundState.PENDING


def test_a_second_round_at_once_is_refused(site, olga, hints):
    (message,) = ask(olga, site.federation, "start_round")
    assert message == "digits: A round of this federation is running already; wait for its end."
    assert hints == []


def test_a_round_is_cancelled_with_its_reason(site, olga):
    ask(olga, site.running, "cancel", reason="wrong data")
    assert Round.objects.get(pk=site.running.pk).end_reason == "wrong data"
    (refused,) = ask(olga, site.running, "cancel", reason="again")
    assert refused == "digits round 2: The round is over already."


def test_a_round_that_ends_while_it_is_asked_about_is_left_as_it_ended(site, olga):
    assert olga.get(page_of(site.running, "cancel")).status_code == 200
    cancel_round(site.running.pk, reason="by another", actor="operator:other", now=site.running.created_at)
    ask(olga, site.running, "cancel", reason="mine")
    assert Round.objects.get(pk=site.running.pk).end_reason == "by another"


def test_too_few_devices_are_a_message(db, olga, hints):
    lonely = make_federation("lonely", group=f"nobody-{uuid.uuid4()}")
    (message,) = ask(olga, lonely, "start_round")
    assert message.startswith("lonely: 0 devices are active")
    assert not open_rounds(lonely)


def open_rounds(federation):
    return Round.objects.unfinished().filter(federation=federation).exists()


def test_the_service_and_the_page_agree_on_who_is_invited(site, olga, hints):
    other = make_federation("other", group="ward")
    ask(olga, other, "start_round")
    first = other.rounds.get()
    cancel_round(first.id, reason="compare", actor="operator:olga", now=first.created_at)
    assert open_round(other.id, actor="operator:olga", now=first.created_at).target_updates == first.target_updates


def test_a_device_is_labelled(site, olga):
    device = site.devices[0]
    messages = ask(olga, device, "label", labels="gpu=yes\nsite=north\n")
    device.refresh_from_db()
    assert device.labels == {"gpu": "yes", "site": "north"}
    assert messages == [f"{device} has its labels."]


@pytest.mark.parametrize("labels", ["gpu", "gpu=yes\ngpu=no", "=x"])
def test_labels_out_of_form_are_asked_for_again(site, olga, labels):
    device = site.devices[0]
    assert olga.post(page_of(device, "label"), {"confirmed": "yes", "labels": labels}).status_code == 200
    device.refresh_from_db()
    assert device.labels == {}


def test_the_deadline_of_a_running_round_is_put_off(site, olga):
    now = timezone.now()
    Round.objects.filter(id=site.running.id).update(
        state=RoundState.OPEN, opened_at=now, deadline_at=now + timedelta(hours=1)
    )
    ask(olga, site.running, "extend", minutes="30", reason="storm")
    site.running.refresh_from_db()
    assert site.running.deadline_at == now + timedelta(minutes=90)
    assert Event.objects.get(kind="round.extended").actor == "operator:olga"


def test_a_version_is_released_and_rolled_back(site, olga):
    first, last = site.federation.versions.order_by("number")[0], site.federation.versions.order_by("-number")[0]
    assert ask(olga, last, "release") == [f"{last} is released."]
    assert ask(olga, site.federation, "roll_back", number=str(first.number), reason="it forgets") == [
        f"{first} is the released version again."
    ]
    assert Event.objects.get(kind="model.rolled_back").payload["instead_of"] == last.number


@pytest.mark.parametrize(
    ("answers", "told", "when"),
    [
        ({"minutes": "30"}, "digits opens a round every 30 minutes, when the last one is over.", "every 1800 s"),
        ({"crontab": "0 2 * * *"}, "digits opens rounds by the crontab 0 2 * * *, in UTC.", "by crontab 0 2 * * *"),
        (
            {"idle_devices": "3"}, "digits opens a round whenever 3 of its devices are idle.",
            "when 3 devices are idle",
        ),
        ({}, "Rounds of digits are opened by hand.", "by hand only"),
    ],
)  # fmt: skip
def test_rounds_are_scheduled_one_way_and_the_log_says_which(olga, site, answers, told, when):
    assert ask(olga, site.federation, "schedule", **answers) == [told]
    assert Event.objects.filter(kind="federation.scheduled").order_by("id").last().payload["when"] == when


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"minutes": "30", "idle_devices": "3"}, "Give one of them, or none"),
        ({"minutes": "0"}, "greater than or equal to"),
        ({"idle_devices": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_not_set(olga, site, answers, told):
    before = Event.objects.count()
    answer = olga.post(page_of(site.federation, "schedule"), {"confirmed": "yes", **answers})
    assert told in answer.content.decode()
    assert Event.objects.count() == before


def test_a_crontab_that_is_none_is_refused_in_words(olga, site):
    [told] = ask(olga, site.federation, "schedule", crontab="every day")
    assert "is no crontab" in told


def test_after_an_operation_the_operator_is_back_where_she_came_from(olga, site):
    came_from = reverse("console:device", args=(site.devices[0].id,))
    answer = olga.post(
        f"{page_of(site.devices[0], 'suspend')}?next={came_from}", {"confirmed": "yes", "reason": "lost"}
    )
    assert answer["Location"] == came_from


@pytest.mark.parametrize("elsewhere", ["https://mallory.example/", "//mallory.example", "javascript:alert(1)", ""])
def test_nobody_is_sent_to_another_site(olga, site, elsewhere):
    address = f"{page_of(site.devices[0], 'suspend')}?{urlencode({'next': elsewhere})}"
    answer = olga.post(address, {"confirmed": "yes", "reason": "lost"})
    assert answer["Location"] == reverse("admin:devices_device_change", args=(site.devices[0].id,))
