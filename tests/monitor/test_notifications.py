"""Who is told, how often it is tried, how a webhook is signed, and what is never told."""

import base64
import hashlib
import hmac
import json
import logging
import smtplib
from datetime import timedelta

import httpx
import pytest

from audit.models import Event
from monitor import webhooks
from monitor.models import ChannelKind, Delivery, DeliveryState, NotificationChannel
from monitor.services.channels import create_channel, renew_secret, signing_key, switch_channel
from monitor.services.deliveries import MESSAGES_OF_ONE_RUN, MOST_ATTEMPTS, deliver_due, wait_after
from monitor.terms import Severity
from qflare_protocol.errors import Refusal
from tests.monitor.conftest import NOON, OLGA, Scene

pytestmark = pytest.mark.django_db

HOOK = "https://hooks.example/services/a-secret-path"


class Receiver:
    """Stands at the end of every webhook; `answers` are the statuses or failures it gives, the last one for good."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers, self.requests = list(answers), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, headers={"Location": "https://elsewhere.example/"} if answer == 302 else {})


@pytest.fixture
def receiver(monkeypatch) -> Receiver:
    receiver, real = Receiver(204), httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: real(transport=httpx.MockTransport(receiver), **options))
    return receiver


def channel(kind=ChannelKind.WEBHOOK, address=HOOK, name="pager", least=Severity.WARNING):
    return create_channel(name, kind, address, least_severity=least, actor=OLGA, now=NOON)


def incident(scene: Scene):
    scene.refused("replayed challenge", times=3)
    return scene.look()[0]


def no_jitter() -> float:
    return 1.0


def test_a_webhook_is_signed_as_standard_webhooks_say(scene, receiver):
    _, secret = channel()
    opened = incident(scene)
    assert deliver_due(now=scene.now) == 1
    (request,) = receiver.requests
    sent = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.content
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, sent, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert int(request.headers["webhook-timestamp"]) == int(scene.now.timestamp())
    message = json.loads(request.content)
    assert message["type"] == "incident.opened"
    assert message["data"]["incident_id"] == str(opened.id)
    assert (message["data"]["rule"], message["data"]["subject"]) == ("replays", "Device alice")


def test_the_signature_is_that_of_the_specifications_example():
    """The example of the Standard Webhooks repository's reference libraries."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = webhooks.signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_was_delivered_is_not_sent_again_and_the_log_tells(scene, receiver):
    channel()
    incident(scene)
    deliver_due(now=scene.now)
    deliver_due(now=scene.later(hours=1).now)
    assert len(receiver.requests) == 1
    event = Event.objects.get(kind="notification.delivered")
    assert (event.payload["channel"], event.payload["attempts"]) == ("pager", 1)


@pytest.mark.parametrize("failure", [500, 404, 302, httpx.ConnectTimeout("late"), httpx.ConnectError("refused")])
def test_a_receiver_that_does_not_take_it_is_tried_again_later_with_the_same_message(scene, receiver, failure):
    receiver.answers = [failure, 204]
    channel()
    incident(scene)
    assert deliver_due(now=scene.now, jitter=no_jitter) == 0
    assert deliver_due(now=scene.later(seconds=29).now, jitter=no_jitter) == 0
    assert deliver_due(now=scene.later(seconds=1).now, jitter=no_jitter) == 1
    first, second = receiver.requests
    assert first.url == second.url == HOOK
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.content == second.content
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_waits_double_up_to_six_hours_and_are_spread():
    seconds = [wait_after(attempts, no_jitter).total_seconds() for attempts in range(1, MOST_ATTEMPTS)]
    assert seconds[:4] == [30, 60, 120, 240]
    assert seconds[-1] == 6 * 3600
    assert wait_after(1, lambda: 0.0) == timedelta(seconds=15)


def test_after_twelve_attempts_it_is_given_up_and_the_log_tells(scene, receiver):
    receiver.answers = [503]
    channel()
    incident(scene)
    for _ in range(MOST_ATTEMPTS + 2):
        deliver_due(now=scene.later(hours=7).now)
    assert len(receiver.requests) == MOST_ATTEMPTS
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.last_error) == (DeliveryState.FAILED, "status 503")
    assert Event.objects.get(kind="notification.failed").payload["error"] == "status 503"


def test_a_message_that_another_worker_has_is_left_to_it(scene, receiver):
    channel()
    incident(scene)
    receiver.answers = [204]
    Delivery.objects.update(next_attempt_at=scene.now + timedelta(minutes=10), attempts=1)
    assert deliver_due(now=scene.now) == 0
    assert receiver.requests == []


def test_one_run_tries_a_few_only(scene, receiver):
    for number in range(MESSAGES_OF_ONE_RUN + 2):
        channel(name=f"hook-{number}")
    incident(scene)
    assert deliver_due(now=scene.now) == MESSAGES_OF_ONE_RUN
    assert deliver_due(now=scene.now) == 2


def test_email_says_what_and_where(scene, mailoutbox):
    channel(ChannelKind.EMAIL, "olga@hospital.example")
    opened = incident(scene)
    assert deliver_due(now=scene.now) == 1
    (message,) = mailoutbox
    assert message.to == ["olga@hospital.example"]
    assert message.subject == "[QFLARE] warning: replays, Device alice"
    assert str(opened.id) in message.body


def test_a_mail_server_that_refuses_is_tried_again(scene, monkeypatch):
    def refuse(self):
        raise smtplib.SMTPServerDisconnected("gone")

    monkeypatch.setattr("django.core.mail.EmailMessage.send", refuse)
    channel(ChannelKind.EMAIL, "olga@hospital.example")
    incident(scene)
    assert deliver_due(now=scene.now) == 0
    assert Delivery.objects.get().last_error == "SMTPServerDisconnected"


def test_a_channel_hears_only_from_its_severity_on(scene, receiver):
    channel(name="night", least=Severity.CRITICAL)
    channel(name="day", least=Severity.INFO)
    incident(scene)
    assert [delivery.channel.name for delivery in Delivery.objects.all()] == ["day"]


def test_a_channel_that_is_switched_off_is_told_nothing(scene, receiver):
    channel()
    switch_channel("pager", enabled=False, actor=OLGA, now=NOON)
    incident(scene)
    assert not Delivery.objects.exists()
    with pytest.raises(Refusal, match="switched off already"):
        switch_channel("pager", enabled=False, actor=OLGA, now=NOON)


def test_neither_secret_nor_address_stands_in_logs_or_events(scene, receiver, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # as the site's logging sets it
    receiver.answers = [500]
    _, secret = channel()
    incident(scene)
    deliver_due(now=scene.now)
    texts = [caplog.text, *(json.dumps(event.payload) for event in Event.objects.all())]
    for text in texts:
        assert "a-secret-path" not in text
        assert secret.removeprefix("whsec_") not in text
    assert bytes(NotificationChannel.objects.get().wrapped_secret) != base64.b64decode(secret[6:])


def test_a_new_secret_replaces_the_old_one():
    row, secret = channel()
    renewed = renew_secret("pager", actor=OLGA, now=NOON)
    row.refresh_from_db()
    assert renewed != secret
    assert signing_key(row) == base64.b64decode(renewed.removeprefix("whsec_"))
    channel(ChannelKind.EMAIL, "olga@hospital.example", "mail")
    with pytest.raises(Refusal, match="Only a webhook"):
        renew_secret("mail", actor=OLGA, now=NOON)


def test_a_secret_that_does_not_open_is_a_failed_attempt(scene, receiver):
    channel()
    channel(name="other")
    NotificationChannel.objects.filter(name="pager").update(
        wrapped_secret=NotificationChannel.objects.get(name="other").wrapped_secret
    )
    incident(scene)
    assert deliver_due(now=scene.now) == 1
    assert Delivery.objects.get(channel__name="pager").last_error == "the secret does not open"


@pytest.mark.parametrize(
    "address",
    [
        "http://hooks.example/",
        "ftp://hooks.example/",
        "https://",
        "https://a:b@hooks.example/",
        "https://[::1",
        "hooks",
    ],
)
def test_a_webhook_is_https_without_a_password(settings, address):
    settings.QFLARE_INSECURE_HTTP = False
    with pytest.raises(Refusal, match="begins with https://"):
        channel(address=address)


def test_plain_http_is_for_one_machine_only(settings, scene, receiver):
    settings.QFLARE_INSECURE_HTTP = True
    channel(address="http://127.0.0.1:9/")
    incident(scene)
    settings.QFLARE_INSECURE_HTTP = False
    assert deliver_due(now=scene.now) == 0
    assert receiver.requests == []
    with pytest.raises(webhooks.NotDelivered, match="plain HTTP"):
        webhooks.send("http://127.0.0.1:9/", b"k", "id", b"", now=NOON)


def test_names_and_addresses_that_are_none_are_refused():
    channel()
    for arguments in (
        {"name": "pager"},
        {"name": "two words"},
        {"kind": ChannelKind.EMAIL, "address": "olga", "name": "mail"},
    ):
        with pytest.raises(Refusal, match="conflict"):
            channel(**arguments)
    assert NotificationChannel.objects.count() == 1
