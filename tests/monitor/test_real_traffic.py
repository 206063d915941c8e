"""What real refusals over HTTP make of the rules: the events that services write are those that the rules read."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from audit.services import sequence_log
from enrollment.services import issue_token
from monitor.models import Incident, RuleSetting
from monitor.services.tuning import make_settings
from monitor.services.watch import watch
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.enrolment import EnrolmentClient
from qflare_protocol.enrolment import EnrolmentToken as WireToken
from qflare_protocol.suites import DEFAULT_SUITE
from sessions.models import Session, SessionState
from tests.people import OPERATOR, Person, alice, assert_refused, bob, mallory, raised_rates
from tests.sessions.test_rekeying import renew

__all__ = ["alice", "bob", "mallory", "raised_rates"]

pytestmark = pytest.mark.django_db


def found() -> list[tuple[str, str]]:
    """Have the monitor look; return rule and subject of every incident."""
    now = timezone.now()
    sequence_log(now)
    watch(now=now)
    return [(incident.rule, str(incident.subject)) for incident in Incident.objects.order_by("rule")]


def present(person: Person, text: str, name: str) -> None:
    exchange = EnrolmentClient(WireToken.from_text(text), name, generate_device_keypair(DEFAULT_SUITE))
    person.post_cbor("/api/enroll", {"begin": exchange.begin})


def test_an_ordinary_life_is_no_incident(alice):
    line = alice.line()
    for _ in range(3):
        assert line.ask().status == 200
    line.chain = renew(alice, line)
    assert line.ask().status == 200
    assert found() == []


def test_two_sessions_that_are_used_side_by_side_are_found_and_ended(alice):
    own, thiefs = alice.line(), alice.line()
    assert thiefs.ask().status == 200
    own.chain = renew(alice, own)
    assert found() == [("parallel-sessions", "Device alice")]
    assert not Session.objects.exclude(state=SessionState.ENDED).exists()
    assert_refused(thiefs.send(thiefs.seal()), "session-expired")


def test_a_client_that_leaves_a_session_and_opens_another_is_none(alice):
    alice.line()
    line = alice.line()
    line.chain = renew(alice, line)
    assert found() == []


def test_numbers_used_again_for_other_requests_are_replays(alice):
    line = alice.line()
    assert line.ask().status == 200
    for _ in range(3):
        line.send(line.seal(message={"another": 1}, sequence=1))
    assert found() == [("replays", "Device alice")]


def test_a_recorded_handshake_that_is_sent_again_is_a_replay(alice, mallory):
    recorded = alice.handshake().request
    alice.post_cbor("/api/challenge", {"request": recorded})
    for _ in range(3):
        assert_refused(mallory.post_cbor("/api/challenge", {"request": recorded}), "handshake-used")
    assert found() == [("replays", "Device alice")]


def test_requests_that_were_tampered_with_are_failed_signatures(alice):
    line = alice.line()
    for _ in range(5):
        request = line.seal()
        assert_refused(line.send(replace(request, body=bytes(len(request.body)))), "request-not-authentic")
    assert found() == [("signature-failures", "Device alice")]


def test_a_revoked_device_and_a_stranger_who_keep_trying_are_two_subjects(bob, mallory):
    for person in (bob, mallory):
        for _ in range(5):
            request = person.handshake().request
            assert_refused(person.post_cbor("/api/challenge", {"request": request}), "authentication-failed")
    assert sorted(found()) == [("signature-failures", "Device bob"), ("signature-failures", "strangers")]


def test_handshakes_of_yesterday_are_skew(alice, mallory):
    with time_machine.travel(timezone.now() - timedelta(days=1)):
        recorded = [alice.handshake().request for _ in range(6)]
    for request in recorded:
        assert_refused(mallory.post_cbor("/api/challenge", {"request": request}), "clock-skew")
    assert found() == [("clock-skew", "Device alice")]


def test_used_and_unknown_tokens_are_found(mallory):
    token = issue_token(actor=OPERATOR, now=timezone.now(), device_name="carol")
    present(mallory, token.text, "eve")
    for _ in range(10):
        parts = token.text.split(".")
        present(mallory, ".".join([parts[0], parts[1][::-1], parts[2]]), "eve")
    assert found() == [("token-guessing", "strangers"), ("token-reuse", f"Enrolment token {token.row.id}")]


def test_a_device_beyond_its_rate_is_found_once_for_each_window(alice, settings):
    make_settings(timezone.now())
    RuleSetting.objects.filter(rule="rate-excess").update(threshold=2)
    settings.QFLARE_RATES = settings.QFLARE_RATES | {"work": "2/m"}
    settings.RATELIMIT_CACHE_PREFIX = f"{uuid.uuid4()}:"
    line = alice.line()
    with time_machine.travel(timezone.now()) as clock:
        codes = [line.send(line.seal()).status_code for _ in range(5)]
        assert codes[:2] == [200, 200]
        assert found() == []
        clock.shift(70)
        for _ in range(5):
            line.send(line.seal())
        assert found() == [("rate-excess", "Device alice")]
