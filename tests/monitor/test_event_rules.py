"""Which events each rule counts, about whom, and from when on."""

import uuid
from string import Formatter

import pytest

from audit.kinds import _SENTENCES, registered_kinds
from monitor.apps import _KINDS
from monitor.models import Incident, MonitorPosition
from monitor.rules import RULES
from monitor.rules.definition import ON_THE_DEVICE
from monitor.terms import ACTOR
from tests.monitor.conftest import Scene

pytestmark = pytest.mark.django_db

TOKEN = str(uuid.UUID(int=7))


def token_refused(scene: Scene, reason: str, token: str | None = TOKEN) -> None:
    scene.event("token.refused", token=token, reason=reason)


def test_every_kind_that_a_rule_looks_at_is_registered_and_none_is_the_monitors_own():
    kinds = {kind for rule in RULES.values() for kind in rule.kinds}
    assert kinds <= set(registered_kinds())
    assert not kinds & set(_KINDS)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_is_stated_whole(rule):
    assert rule.sentence.endswith(".")
    assert bool(rule.kinds) == (rule.findings is not None) != (rule.examine is not None)
    assert set(rule.defaults.responses) <= set(rule.responses)
    assert rule.defaults.threshold > 0


@pytest.mark.parametrize("rule", ["signature-failures", "replays", "clock-skew", "rate-excess", "token-reuse"])
def test_what_anybody_can_bring_about_in_a_devices_name_is_never_answered_by_acting_on_it(rule):
    assert not set(RULES[rule].responses) & set(ON_THE_DEVICE)


@pytest.mark.parametrize("reason", ["token-used", "token-revoked", "token-name-mismatch"])
def test_one_reuse_of_a_token_is_an_incident_about_that_token(scene, reason):
    token_refused(scene, reason)
    (incident,) = scene.look()
    assert (incident.rule, str(incident.subject)) == ("token-reuse", f"Enrolment token {TOKEN}")


def test_an_expired_token_is_no_reuse(scene):
    token_refused(scene, "token-expired")
    assert scene.look() == []


def test_guessing_tokens_is_an_incident_from_the_tenth_guess_on(scene):
    for _ in range(9):
        token_refused(scene.later(minutes=1), "token-unknown", None)
    assert scene.look() == []
    token_refused(scene, "token-unknown", None)
    (incident,) = scene.look()
    assert (incident.rule, incident.subject_kind, incident.event_count) == ("token-guessing", "strangers", 10)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("session.refused", "signature by another key"),
        ("session.refused", "revoked device"),
        ("session.refused", "authentication-failed"),
        ("request.refused", "request-not-authentic"),
        ("request.refused", "invalid-signature"),
    ],
)
def test_messages_that_do_not_verify_count_for_the_device_they_name(scene, kind, reason):
    scene.refused(reason, times=4, kind=kind)
    assert scene.look() == []
    scene.refused(reason, kind=kind)
    (incident,) = scene.look()
    assert (incident.rule, str(incident.subject)) == ("signature-failures", "Device alice")


def test_failures_of_two_devices_are_counted_apart(scene):
    scene.refused("signature by another key", "alice", times=4)
    scene.refused("signature by another key", "bob", times=4)
    assert scene.look() == []


def test_unknown_devices_are_strangers_whatever_they_call_themselves(scene):
    for _ in range(5):
        scene.refused("unknown device", str(uuid.uuid4()))
    (incident,) = scene.look()
    assert str(incident.subject) == "strangers"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("session.refused", "replayed challenge"),
        ("session.refused", "handshake-used"),
        ("request.refused", "sequence-reused"),
        ("request.refused", "sequence-too-old"),
    ],
)
def test_three_replays_within_ten_minutes_are_an_incident(scene, kind, reason):
    for _ in range(3):
        scene.later(minutes=6).refused(reason, kind=kind)
    assert scene.look() == []
    scene.later(minutes=1).refused(reason, kind=kind)
    assert scene.rules() == ["replays"]


@pytest.mark.parametrize(("kind", "reason"), [("session.refused", "clock-skew"), ("request.refused", "epoch-expired")])
def test_skew_is_an_incident_when_it_does_not_stop(scene, kind, reason):
    scene.refused(reason, times=5, kind=kind)
    assert scene.look() == []
    scene.refused(reason, kind=kind)
    assert scene.rules() == ["clock-skew"]


def test_an_ordinary_refusal_is_nobodys_business(scene):
    scene.refused("suspended device", times=50)
    scene.refused("handshake-expired", times=50)
    assert scene.look() == []


@pytest.mark.parametrize(
    ("actor", "caller", "subject"), [("device:alice", "alice", "Device alice"), ("stranger", "stranger", "strangers")]
)
def test_ten_limited_windows_in_an_hour_are_an_incident(scene, actor, caller, subject):
    for _ in range(10):
        assert scene.look() == []
        scene.later(minutes=1).event("rate.exceeded", actor=actor, caller=caller, scope="challenge", rate="30/m")
    (incident,) = scene.look()
    assert (incident.rule, str(incident.subject)) == ("rate-excess", subject)


def test_three_rejected_updates_in_a_week_are_an_incident(scene):
    for number in range(3):
        assert scene.look() == []
        payload = {"device": "alice", "reason": "consensus-cosine", "federation": "digits", "round_number": number}
        scene.later(days=2).event("update.rejected", actor="enclave", **payload)
    (incident,) = scene.look()
    assert (incident.rule, str(incident.subject)) == ("rejected-updates", "Device alice")


def test_a_reported_fork_is_critical_at_once(scene):
    scene.event("log.fork_reported", actor="device:alice", device="alice", size=12, root="00")
    (incident,) = scene.look()
    assert (incident.rule, incident.severity, str(incident.subject)) == ("log-fork", "critical", "the log")
    assert incident.timeline.first().text.endswith("Device alice has seen another log of 12 entries.")


class TestParallelSessions:
    def act(self, scene: Scene, what: str, session: str) -> None:
        payload = {"session_id": session, "device": "alice", "generation": 1, "reason": "closed by the device"}
        scene.later(minutes=1).event(f"session.{what}", actor="device:alice", **payload)

    def test_a_session_that_is_used_beside_a_later_one_is_an_incident(self, scene):
        self.act(scene, "opened", "one")
        self.act(scene, "opened", "two")
        self.act(scene, "rekeyed", "one")
        (incident,) = scene.look()
        assert (incident.rule, incident.severity) == ("parallel-sessions", "critical")
        assert incident.timeline.first().text.endswith("Session one was rekeyed after two was opened.")

    def test_leaving_a_session_for_another_is_none(self, scene):
        self.act(scene, "opened", "one")
        self.act(scene, "rekeyed", "one")
        self.act(scene, "opened", "two")
        self.act(scene, "rekeyed", "two")
        assert scene.look() == []

    def test_coming_back_when_the_other_one_was_closed_is_none(self, scene):
        self.act(scene, "opened", "one")
        self.act(scene, "opened", "by-hand")
        self.act(scene, "ended", "by-hand")
        self.act(scene, "rekeyed", "one")
        assert scene.look() == []


def test_what_the_monitor_does_is_no_sign_of_an_attack(scene):
    for _ in range(50):
        scene.event("session.refused", actor=ACTOR, device="alice", reason="replayed challenge")
        scene.event("request.refused", actor=ACTOR, device="alice", reason="request-not-authentic")
    assert scene.look() == []
    assert not Incident.objects.exists()


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.kinds], ids=lambda rule: rule.name)
def test_an_event_with_no_more_than_its_sentence_says_stops_no_rule(scene, rule):
    """A rule that failed at one event would keep the monitor from every later one."""
    for kind in rule.kinds:
        members = {name for _, name, _, _ in Formatter().parse(_SENTENCES[kind]) if name}
        scene.event(kind, **dict.fromkeys(members, 1))
    scene.look()
    assert MonitorPosition.objects.get().next_index >= len(rule.kinds)
