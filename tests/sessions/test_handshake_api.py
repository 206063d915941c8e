"""The handshake over HTTP: who is refused, what a refusal says, and that it changes nothing."""

import base64
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from audit.models import Event
from audit.services import sequence_log
from edge_client.handshaking import Handshaker
from edge_client.http import CBOR
from qflare_protocol.cose import sign1, unverified_payload
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import SeenCheckpoint
from qflare_protocol.merkle import EMPTY_ROOT
from qflare_protocol.server_time import read_server_time
from sessions.models import Session, SessionState
from sessions.services import end_sessions_of_device, suspend_device, sweep_sessions
from tests.people import OPERATOR, assert_refused, cbor, headers_of, nothing_changed, third_message

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def challenge(person, message):
    return person.post_cbor("/api/challenge", {"request": message})


def challenged(person):
    """Return the handshake and the server's M2."""
    handshake = person.handshake()
    return handshake, cbor(challenge(person, handshake.request))["answer"]


def resigned(person, **changes):
    """Return an M1 of this person with members changed and the signature made anew."""
    payload = unverified_payload(person.handshake().request, purpose="M1") | changes
    return sign1(person.identity.keys.signer, payload, purpose="M1")


def last_event():
    return Event.objects.order_by("id").last()


def test_alice_opens_a_session_and_is_heard(alice):
    line = alice.line()
    session = Session.objects.get()
    assert (session.state, session.id) == (SessionState.ACTIVE, uuid.UUID(bytes=line.session_id))
    assert line.ask().message["round"] is None
    assert alice.device.last_seen_at is not None
    assert Event.objects.filter(kind="session.opened", actor="device:alice").count() == 1


def test_a_pending_session_opens_no_request(alice):
    handshake, answer = challenged(alice)
    third_message(handshake, answer)
    line = alice.line()
    line.session_id = Session.objects.get(state=SessionState.PENDING).id.bytes
    assert_refused(line.send(line.seal()), "session-expired")


def test_unknown_revoked_and_wrongly_signed_look_exactly_alike(alice, bob, mallory):
    messages = {
        "unknown": mallory.handshake().request,
        "revoked": bob.handshake().request,
        "another key": mallory.handshake(device_id=alice.identity.device_id).request,
        "another key for bob": mallory.handshake(device_id=bob.identity.device_id).request,
    }
    answers = {}
    for case, message in messages.items():
        with nothing_changed("session.refused"):
            answers[case] = challenge(mallory, message)
    for answer in answers.values():
        assert_refused(answer, "authentication-failed")
        assert answer.content == answers["unknown"].content
        assert headers_of(answer) == headers_of(answers["unknown"])


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_a_broken_signed_structure_is_refused_alike_for_a_known_and_an_unknown_device(alice, mallory, position):
    answers = []
    for device_id in (alice.identity.device_id, uuid.uuid4().bytes):
        parts = [encode({1: -48, 4: bytes(32)}), {}, encode_m1(mallory, device_id), bytes(2420)]
        parts[position] = b"\xff\xff" if position != 1 else {"more": 1}
        with nothing_changed(*(["session.refused"] if position == 3 else [])):
            answers.append(challenge(mallory, encode(parts)))
    assert answers[0].content == answers[1].content
    assert answers[0].status_code == answers[1].status_code


def encode_m1(person, device_id):
    return encode(unverified_payload(person.handshake(device_id=device_id).request, purpose="M1"))


def test_the_event_of_a_refused_handshake_tells_the_operator_what_the_caller_is_not_told(bob, mallory):
    challenge(bob, bob.handshake().request)
    assert last_event().payload == {"device": "bob", "reason": "revoked device", "actor_id": str(bob.device.id)}
    challenge(mallory, mallory.handshake().request)
    assert last_event().payload["reason"] == "unknown device"


def test_a_suspended_device_is_told_to_ask_the_operator(alice):
    suspend_device(alice.device.id, reason="maintenance", actor=OPERATOR, now=NOON)
    with nothing_changed("session.refused"):
        assert_refused(challenge(alice, alice.handshake().request), "device-suspended")


def test_a_device_that_does_not_offer_its_own_suite_is_refused(alice):
    for offered in ([], ["QF1-K1024"], ["qf1-f640"]):
        with nothing_changed():
            assert_refused(challenge(alice, resigned(alice, suites=offered)), "suite-refused")


@pytest.mark.parametrize("key", [b"", bytes(1568), b"\x01" * 1567, b"\x01" * 1569, b"\xff" * 1568])
def test_an_ephemeral_key_of_the_wrong_form_is_refused(alice, key):
    with nothing_changed():
        assert_refused(challenge(alice, resigned(alice, ephemeral_key=key)), "invalid-key")


@pytest.mark.parametrize(
    "changes",
    [
        {"suites": "QF1-F640"},
        {"suites": [1]},
        {"suites": ["x"] * 33},
        {"device_id": bytes(15)},
        {"device_id": "alice"},
        {"nonce": bytes(31)},
        {"bucket": -1},
        {"bucket": True},
        {"bucket": 1.5},
        {"bucket": 1 << 63},
        {"ephemeral_key": "text"},
        {"checkpoint": [1]},
        {"checkpoint": [-1, bytes(32)]},
        {"checkpoint": [1, bytes(31)]},
        {"checkpoint": {"size": 1}},
        {"more": 1},
    ],
)
def test_an_m1_out_of_form_is_refused(alice, changes):
    with nothing_changed():
        assert_refused(challenge(alice, resigned(alice, **changes)), "malformed-message")


@pytest.mark.parametrize("message", [b"", b"\x80", b"\xff" * 100, encode([b"", {}, b"", b""]), "text", 7, None, [b""]])
def test_what_is_no_m1_is_refused(alice, message):
    with nothing_changed():
        assert_refused(challenge(alice, message), "malformed-message")


def test_a_wrong_clock_is_answered_with_a_signed_server_time(alice):
    with time_machine.travel(NOON, tick=False):
        late = alice.handshake(now=(NOON - timedelta(hours=1)).timestamp())
        with nothing_changed("session.refused"):
            problem = assert_refused(challenge(alice, late.request), "clock-skew")
    event = Event.objects.first()
    told = {"device": "alice", "reason": "clock-skew", "actor_id": str(alice.device.id)}
    assert (event.actor, event.payload) == ("device:alice", told)
    signed = base64.urlsafe_b64decode(problem["signed_server_time"])
    assert read_server_time(alice.identity.identity, signed, bound_to=late.request) == NOON.timestamp()
    with pytest.raises(Refusal, match="invalid-signature"):
        read_server_time(alice.identity.identity, signed, bound_to=alice.handshake().request)


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_clock_one_bucket_away_is_tolerated(alice, minutes):
    with time_machine.travel(NOON, tick=False):
        handshake = alice.handshake(now=(NOON + timedelta(minutes=minutes)).timestamp())
        assert challenge(alice, handshake.request).status_code == 200


@pytest.mark.parametrize("hours", [-30, 30])
def test_the_client_corrects_its_clock_by_the_signed_time_and_goes_on(alice, hours):
    session = alice.session(clock=lambda: datetime.now(UTC).timestamp() + hours * 3600)
    assert session.post("/api/work", {})["round"] is None


def test_a_challenge_answered_late_is_refused(alice):
    with time_machine.travel(NOON, tick=False) as clock:
        message = third_message(*challenged(alice))
        clock.shift(60)
        with nothing_changed("session.refused"):
            assert_refused(alice.post_cbor("/api/authenticate", message), "handshake-expired")
        sweep_sessions(now=NOON + timedelta(seconds=60))
        with nothing_changed("session.refused"):
            assert_refused(alice.post_cbor("/api/authenticate", message), "handshake-expired")


def test_a_challenge_answered_in_its_last_second_opens_the_session(alice):
    with time_machine.travel(NOON, tick=False) as clock:
        message = third_message(*challenged(alice))
        clock.shift(59)
        assert alice.post_cbor("/api/authenticate", message).status_code == 200


def test_a_challenge_is_answered_once(alice):
    message = third_message(*challenged(alice))
    assert alice.post_cbor("/api/authenticate", message).status_code == 200
    with nothing_changed("session.refused"):
        assert_refused(alice.post_cbor("/api/authenticate", message), "handshake-used")
    assert last_event().payload == {"device": "alice", "reason": "handshake-used"}


def test_mallory_cannot_answer_the_challenge_of_alice(alice, mallory):
    """She relays M1 and M2, and answers with what she can decapsulate: nothing."""
    handshake, answer = challenged(alice)
    session_id = unverified_payload(answer, purpose="M2")["session_id"]
    forged = {"session_id": session_id, "ciphertext": bytes(1568), "confirmation": bytes(64)}
    with nothing_changed("session.refused"):
        assert_refused(mallory.post_cbor("/api/authenticate", forged), "authentication-failed")
    # The refused guess did not cost alice her session.
    assert alice.post_cbor("/api/authenticate", third_message(handshake, answer)).status_code == 200


def test_the_answer_to_one_challenge_does_not_fit_another(alice):
    first, second = challenged(alice), challenged(alice)
    message = third_message(*first) | {"session_id": third_message(*second)["session_id"]}
    with nothing_changed("session.refused"):
        assert_refused(alice.post_cbor("/api/authenticate", message), "authentication-failed")


def test_an_m2_is_worthless_to_another_device(alice, mallory):
    _, answer = challenged(alice)
    with pytest.raises(Refusal, match="invalid-signature"):
        mallory.handshake(device_id=alice.identity.device_id).respond(answer)


@pytest.mark.parametrize(
    ("member", "value", "code"),
    [
        ("ciphertext", bytes(1567), "malformed-message"),
        ("ciphertext", "text", "malformed-message"),
        ("ciphertext", bytes(1568), "authentication-failed"),
        ("confirmation", b"", "authentication-failed"),
        ("confirmation", bytes(64), "authentication-failed"),
        ("session_id", bytes(16), "handshake-expired"),
        ("session_id", bytes(15), "malformed-message"),
    ],
)
def test_a_changed_m3_is_refused_and_the_challenge_stays_open(alice, member, value, code):
    message = third_message(*challenged(alice))
    answer = alice.post_cbor("/api/authenticate", message | {member: value})
    assert_refused(answer, code)
    assert Session.objects.get().state == SessionState.PENDING
    assert alice.post_cbor("/api/authenticate", message).status_code == 200


def test_a_device_suspended_between_the_messages_does_not_get_in(alice):
    message = third_message(*challenged(alice))
    suspend_device(alice.device.id, reason="maintenance", actor=OPERATOR, now=NOON)
    with nothing_changed():
        assert_refused(alice.post_cbor("/api/authenticate", message), "handshake-expired")


def test_a_device_that_has_seen_another_log_is_told_and_the_operator_too(alice):
    sequence_log()
    seen = SeenCheckpoint(2, b"\x01" * 32)
    with nothing_changed("log.fork_reported"):
        assert_refused(challenge(alice, alice.handshake(checkpoint=seen).request), "log-inconsistent")


@pytest.mark.parametrize("size", [0, 10**6, 2**63 - 1])
def test_a_checkpoint_of_a_size_nobody_signed_is_refused(alice, size):
    sequence_log()
    answer = challenge(alice, alice.handshake(checkpoint=SeenCheckpoint(size, b"\x02" * 32)).request)
    assert_refused(answer, "log-inconsistent")


def test_a_checkpoint_of_the_empty_log_is_no_server_error(alice):
    handshake = alice.handshake(checkpoint=SeenCheckpoint(0, EMPTY_ROOT))
    assert_refused(challenge(alice, handshake.request), "log-inconsistent")


def test_the_client_demands_a_log_that_extends_the_one_it_saw(alice):
    sequence_log()
    session = alice.session()
    session.post("/api/work", {})
    session.close()
    sequence_log()
    again = alice.session()
    assert again.post("/api/work", {})["round"] is None


@pytest.mark.parametrize("path", ["/api/challenge", "/api/authenticate", "/api/enroll"])
class TestUnsealedEndpoints:
    def test_a_get_is_not_allowed(self, alice, path):
        answer = alice.http.send("GET", path)
        assert_refused(answer, "method-not-allowed")
        assert "POST" in answer.headers["Allow"]

    @pytest.mark.parametrize(
        "content_type",
        ["application/json", "text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data"],
    )
    def test_another_content_type_is_refused(self, alice, path, content_type):
        with nothing_changed():
            answer = alice.http.send("POST", path, encode({}), {"Content-Type": content_type})
            assert_refused(answer, "unsupported-media-type")

    def test_a_body_that_is_not_cbor_is_refused(self, alice, path):
        with nothing_changed():
            answer = alice.http.send("POST", path, b'{"request": "json"}', {"Content-Type": CBOR})
            assert_refused(answer, "malformed-message")

    def test_a_body_without_stated_length_is_refused(self, alice, path):
        with nothing_changed():
            for stated in ("", "many", "-1", "1e3", "\N{SUPERSCRIPT TWO}", "9" * 16):
                headers = {"Content-Type": CBOR, "Content-Length": stated}
                assert_refused(alice.http.send("POST", path, encode({}), headers), "length-required")

    def test_a_body_above_the_limit_is_refused_before_it_is_read(self, alice, path):
        with nothing_changed():
            headers = {"Content-Type": CBOR, "Content-Length": str(64 * 1024 + 1)}
            assert_refused(alice.http.send("POST", path, b"", headers), "message-too-large")

    def test_a_body_shorter_than_stated_is_refused(self, alice, path):
        with nothing_changed():
            headers = {"Content-Type": CBOR, "Content-Length": "100"}
            assert_refused(alice.http.send("POST", path, encode({}), headers), "malformed-message")

    @pytest.mark.parametrize("message", [None, [], 0, "text", {}, {"request": b"", "more": 1}, {"begin": 1}])
    def test_a_message_of_other_members_is_refused(self, alice, path, message):
        with nothing_changed():
            assert_refused(alice.post_cbor(path, message), "malformed-message")

    def test_an_answer_in_another_form_cannot_be_had(self, alice, path):
        headers = {"Content-Type": CBOR, "Accept": "application/json"}
        assert_refused(alice.http.send("POST", path, encode({}), headers), "not-acceptable")


def test_a_server_that_insists_on_a_wrong_clock_ends_in_its_refusal(alice, monkeypatch):
    session = alice.session(clock=lambda: 1.0)
    monkeypatch.setattr(Handshaker, "server_time", lambda self: 1.0)
    with pytest.raises(Refusal, match="clock-skew"):
        session.post("/api/work", {})


def test_all_sessions_of_a_device_are_ended_at_once_and_it_opens_another(alice):
    lines = [alice.line(), alice.line()]
    assert end_sessions_of_device(alice.device.id, reason="an incident", actor=OPERATOR, now=timezone.now()) == 2
    event = Event.objects.get(kind="sessions.ended")
    assert event.payload == {"device": "alice", "count": 2, "reason": "an incident"}
    for line in lines:
        assert_refused(line.send(line.seal()), "session-expired")
    assert alice.line().ask().status == 200
    with pytest.raises(Refusal, match="not-found"):
        end_sessions_of_device(uuid.uuid4(), reason="an incident", actor=OPERATOR, now=timezone.now())
