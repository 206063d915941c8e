"""The monitor's pages: what is asked and done, by whom, and that a secret is shown once."""

import re

import pytest
from django.contrib.messages import get_messages
from django.urls import reverse

from audit.models import Event
from devices.models import Device
from monitor.models import Incident, NotificationChannel, Response, RuleSetting
from monitor.services.channels import signing_key
from tests.admin.conftest import olga, root, signed_in, vera
from tests.factories import make_device
from tests.monitor.conftest import Scene

__all__ = ["olga", "root", "signed_in", "vera"]

pytestmark = pytest.mark.django_db


def page(row, name, *arguments):
    return reverse(f"admin:monitor_{type(row)._meta.model_name}_{name}", args=arguments or (row.pk,))


def ask(client, row, operation, **answers):
    answer = client.post(page(row, operation), {"confirmed": "yes", **answers})
    assert answer.status_code == 302, answer.content
    return [str(message) for message in get_messages(client.get(answer["Location"]).wsgi_request)]


@pytest.fixture
def incident(scene: Scene) -> Incident:
    make_device("edge-1")
    scene.tuned("rejected-updates", threshold=1, responses=["suspend-device", "notify"])
    payload = {"device": "edge-1", "reason": "norm-bound", "federation": "digits", "round_number": 1}
    scene.event("update.rejected", actor="enclave", **payload)
    return scene.look()[0]


def test_the_page_of_an_incident_tells_its_story(incident, olga):
    text = olga.get(page(incident, "change")).content.decode()
    for part in (
        "The enclave rejects the updates of a device again and again.",
        "Update of edge-1 rejected in round 1 of digits: norm-bound",
        "Suspend the device edge-1: It is refused until it is resumed.",
    ):
        assert part in text


def test_an_operator_acknowledges_takes_notes_and_closes(incident, olga):
    assert ask(olga, incident, "acknowledge") == ["rejected-updates: Device edge-1: acknowledged."]
    assert ask(olga, incident, "assign_to_me") == ["rejected-updates: Device edge-1: assigned to you."]
    ask(olga, incident, "note", note="called the ward")
    ask(olga, incident, "close", note="a broken sensor")
    incident.refresh_from_db()
    assert (incident.state, incident.assignee, incident.closing_note) == ("closed", "operator:olga", "a broken sensor")
    (message,) = ask(olga, incident, "close", note="again")
    assert message.endswith("The incident is closed.")


def test_a_response_is_undone_with_a_reason(incident, olga):
    response = Response.objects.get(action="suspend-device")
    assert ask(olga, response, "undo", reason="a false alarm") == ["Suspend the device edge-1: undone."]
    assert Device.objects.get().state == "active"


def test_a_viewer_changes_nothing(incident, vera):
    events = Event.objects.count()
    setting, response = RuleSetting.objects.first(), Response.objects.first()
    for row, operation in ((incident, "close"), (incident, "acknowledge"), (response, "undo"), (setting, "tune")):
        assert vera.get(page(row, operation)).status_code == 403
        assert vera.post(page(row, operation), {"confirmed": "yes", "note": "x", "reason": "x"}).status_code == 403
    assert vera.get(reverse("admin:monitor_notificationchannel_make")).status_code == 403
    assert Event.objects.count() == events


def tune(client, rule, **changes):
    setting = RuleSetting.objects.get(rule=rule)
    form = {
        "enabled": "on",
        "threshold": "7.5",
        "window_seconds": "60",
        "severity": "critical",
        "responses": ["notify"],
        "cool_down_seconds": "5",
        "reason": "quieter",
    }
    return client.post(page(setting, "tune"), form | changes)


def test_a_rule_is_tuned_on_its_page_which_explains_it(incident, olga):
    shown = olga.get(page(RuleSetting.objects.get(rule="replays"), "tune")).content.decode()
    assert "Handshakes or requests of a device are sent again." in shown
    assert "Of repeated messages of one device." in shown
    assert "suspend-device" not in shown
    assert tune(olga, "replays").status_code == 302
    setting = RuleSetting.objects.get(rule="replays")
    assert (setting.threshold, setting.window_seconds, setting.severity) == (7.5, 60, "critical")
    assert Event.objects.get(kind="rule.changed").actor == "operator:olga"


def test_a_response_that_a_rule_cannot_have_is_not_taken(incident, olga):
    answer = tune(olga, "replays", responses=["suspend-device"])
    assert answer.status_code == 200
    assert "not one of the available choices" in answer.content.decode()
    assert not Event.objects.filter(kind="rule.changed").exists()


def test_a_window_beyond_a_year_is_refused_with_a_message(incident, olga):
    answer = tune(olga, "replays", window_seconds="99999999")
    assert "a year at most" in answer.content.decode()


def test_a_webhooks_secret_is_shown_once_and_renewed(olga):
    terms = {"name": "pager", "kind": "webhook", "address": "https://x.example/", "least_severity": "info"}
    made = olga.post(reverse("admin:monitor_notificationchannel_make"), terms)
    assert made.status_code == 200
    assert "no-store" in made["Cache-Control"]
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", made.content.decode())[0]
    channel = NotificationChannel.objects.get()
    for name in ("change", "renew_secret"):
        assert secret not in olga.get(page(channel, name)).content.decode()
    renewed = olga.post(page(channel, "renew_secret")).content.decode()
    assert "whsec_" in renewed
    assert secret not in renewed
    assert len(signing_key(NotificationChannel.objects.get())) == 32


def test_an_email_channel_is_made_and_switched_off_and_on(olga):
    terms = {"name": "mail", "kind": "email", "address": "olga@x.example", "least_severity": "info"}
    olga.post(reverse("admin:monitor_notificationchannel_make"), terms, follow=True)
    channel = NotificationChannel.objects.get()
    assert ask(olga, channel, "switch_off") == ["mail is told nothing any more."]
    assert not NotificationChannel.objects.get().enabled
    assert ask(olga, channel, "switch_on") == ["mail is told of incidents again."]
    refused = olga.post(page(channel, "renew_secret"), follow=True)
    assert "Only a webhook has a secret." in refused.content.decode()


def test_a_channel_that_cannot_be_is_asked_for_again(olga):
    terms = {"name": "mail", "kind": "email", "address": "olga", "least_severity": "info"}
    answer = olga.post(reverse("admin:monitor_notificationchannel_make"), terms)
    assert answer.status_code == 200
    assert "This is no e-mail address." in answer.content.decode()
    assert not NotificationChannel.objects.exists()
