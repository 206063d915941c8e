"""Sealed requests over HTTP: every changed byte is refused, every number counts once, a retry is answered alike."""

import base64
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import time_machine

from audit.models import Event
from devices.models import Device
from edge_client.http import CBOR
from qflare_protocol.cose import verify1
from qflare_protocol.encoding import encode
from qflare_protocol.epochs import BUCKET_SECONDS, GRACE_SECONDS, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.sealed_request import CONTENT_TYPE_HEADER, SEALED_MEDIA_TYPE
from qflare_protocol.server_time import read_server_time, request_reference
from sessions.models import Exchange, Session, SessionState
from sessions.services import revoke_device, suspend_device, sweep_sessions
from tests.people import OPERATOR, assert_refused, enrol, headers_of, nothing_changed, opened

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def flipped(data, position=0):
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


@pytest.fixture
def line(alice):
    return alice.line()


@pytest.fixture
def noon():
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


AAD = {
    "method": lambda request: request.aimed(method="PUT"),
    "path": lambda request: request.aimed(path="/api/session/close"),
    "query": lambda request: request.aimed(path="/api/work?a=1"),
    "content type": lambda request: request.aimed(content_type="text/plain"),
    "no content type": lambda request: request.aimed(content_type=""),
    "sequence": lambda request: request.numbered(sequence=request.authorization.number.sequence + 1),
    "salt": lambda request: request.numbered(salt=flipped(request.authorization.number.salt)),
    "next epoch": lambda request: request.numbered(epoch=request.authorization.number.epoch + 1),
    "tag": lambda request: replace(
        request, authorization=replace(request.authorization, tag=flipped(request.authorization.tag))
    ),
    "body": lambda request: replace(request, body=flipped(request.body)),
    "end of the body": lambda request: replace(request, body=flipped(request.body, -1)),
    "length": lambda request: replace(request.aimed(length=request.target.length + 1), body=request.body + b"\0"),
    "shorter": lambda request: replace(request.aimed(length=request.target.length - 1), body=request.body[:-1]),
}


@pytest.mark.parametrize("change", AAD.values(), ids=AAD.keys())
def test_a_changed_byte_anywhere_is_refused(noon, line, change):
    line.ask()
    request = line.seal(message={"a": 1})
    with nothing_changed("request.refused"):
        assert_refused(line.send(change(request)), "request-not-authentic")
    assert Event.objects.order_by("id").last().payload == {"device": "alice", "reason": "request-not-authentic"}


def test_every_bit_of_a_body_counts(line):
    request = line.seal()
    for position in range(len(request.body)):
        for bit in range(8):
            body = bytearray(request.body)
            body[position] ^= 1 << bit
            assert_refused(line.send(replace(request, body=bytes(body))), "request-not-authentic")
    assert line.send(request).status_code == 200


@pytest.mark.parametrize("path", ["/api/work", "/api/session/close"])
def test_the_session_of_another_device_opens_nothing(alice, tmp_path, path):
    carol = enrol("carol", tmp_path / "carol")
    line, other = alice.line(), carol.line()
    stolen = line.seal(path).numbered(session_id=other.session_id)
    with nothing_changed("request.refused"):
        assert_refused(line.send(stolen), "request-not-authentic")


@pytest.mark.parametrize("session_id", [bytes(16), uuid.uuid4().bytes])
def test_a_session_nobody_opened_is_refused(line, session_id):
    with nothing_changed():
        assert_refused(line.send(line.seal().numbered(session_id=session_id)), "session-expired")


def test_the_same_request_again_gets_the_byte_identical_answer(line):
    request = line.seal()
    first = line.send(request)
    with nothing_changed():
        again = line.send(request)
    assert again.content == first.content
    assert headers_of(again) == headers_of(first)
    assert opened(request, again).message == opened(request, first).message


def test_a_sequence_number_serves_one_request(line):
    line.ask(sequence=7)
    with nothing_changed("request.refused"):
        assert_refused(line.ask(sequence=7), "sequence-reused")
    event = Event.objects.order_by("id").last()
    assert (event.actor, event.payload["reason"]) == ("device:alice", "sequence-reused")


def test_numbers_within_the_window_may_come_in_any_order(line):
    for sequence in (64, 1, 63, 2):
        assert line.ask(sequence=sequence).status == 200


def test_a_number_behind_the_window_is_refused(line):
    line.ask(sequence=65)
    with nothing_changed("request.refused"):
        assert_refused(line.ask(sequence=1), "sequence-too-old")
    assert line.ask(sequence=2).status == 200


def test_a_replay_from_behind_the_window_is_refused_and_forgotten(line):
    old = line.seal()
    line.send(old)
    line.ask(sequence=200)
    assert not Exchange.objects.filter(sequence=1).exists()
    with nothing_changed("request.refused"):
        assert_refused(opened(old, line.send(old)), "sequence-too-old")


def test_a_message_of_the_epoch_before_is_heard_for_thirty_seconds(noon, line):
    before = [line.seal() for _ in range(2)]
    noon.shift(BUCKET_SECONDS)
    assert line.ask().status == 200
    noon.shift(GRACE_SECONDS - 1)
    assert line.send(before[0]).status_code == 200
    noon.shift(1)
    with nothing_changed("request.refused"):
        assert_refused(line.send(before[1]), "epoch-expired")


def test_a_refused_epoch_carries_the_signed_server_time(noon, alice, line):
    request = line.seal()
    noon.shift(2 * BUCKET_SECONDS)
    with nothing_changed("request.refused"):
        problem = assert_refused(line.send(request), "epoch-expired")
    number = request.authorization.number
    signed = base64.urlsafe_b64decode(problem["signed_server_time"])
    reference = request_reference(number.session_id, number.epoch, number.sequence)
    expected = (NOON + timedelta(seconds=2 * BUCKET_SECONDS)).timestamp()
    assert read_server_time(alice.identity.identity, signed, bound_to=reference) == expected
    with pytest.raises(Refusal):
        verify1(alice.identity.identity, signed, purpose="M2")


def test_the_epoch_may_run_one_bucket_ahead_and_no_further(noon, line):
    current = bucket_of(NOON.timestamp())
    with nothing_changed(*["request.refused"] * 3):
        assert_refused(line.send(line.seal(epoch=current + 2)), "epoch-expired")
        assert_refused(line.send(line.seal().numbered(epoch=0)), "epoch-expired")
        assert_refused(line.send(line.seal().numbered(epoch=10**12 - 1)), "epoch-expired")
    assert line.ask(epoch=current + 1).status == 200


def test_a_session_serves_its_number_of_requests_and_no_more(line, settings):
    settings.QFLARE_SESSION_LIMITS = {"requests": 3}
    for _ in range(3):
        assert line.ask().status == 200
    with nothing_changed():
        assert_refused(line.ask(), "session-limit-reached")


def test_a_session_carries_its_number_of_bytes_and_no_more(line, settings):
    settings.QFLARE_SESSION_LIMITS = {"transfer_bytes": 3}
    for _ in range(3):
        assert line.ask().status == 200
    with nothing_changed():
        assert_refused(line.ask(), "session-limit-reached")


def test_a_session_lives_three_epochs(noon, line):
    noon.shift(2 * BUCKET_SECONDS)
    assert line.ask().status == 200
    noon.shift(BUCKET_SECONDS)
    with nothing_changed():
        assert_refused(line.ask(), "session-limit-reached")


def test_a_session_ends_with_its_lifetime(noon, alice, settings):
    settings.QFLARE_SESSION_LIMITS = {"lifetime_seconds": 60}
    line = alice.line()
    noon.shift(59)
    assert line.ask().status == 200
    noon.shift(1)
    with nothing_changed():
        assert_refused(line.send(line.seal()), "session-expired")
    sweep_sessions(now=NOON + timedelta(seconds=60))
    session = Session.objects.get()
    assert (session.state, session.wrapped_secret, session.end_reason) == (SessionState.ENDED, None, "expired")


def test_the_sweep_moves_an_idle_chain_on_and_the_session_stays_usable(noon, line):
    before = bytes(Session.objects.get().wrapped_secret)
    noon.shift(BUCKET_SECONDS)
    sweep_sessions(now=NOON + timedelta(seconds=BUCKET_SECONDS))
    session = Session.objects.get()
    assert session.epoch == bucket_of(NOON.timestamp()) + 1
    assert bytes(session.wrapped_secret) != before
    assert line.ask().status == 200


def test_the_sweep_ends_a_chain_whose_epochs_are_used_up(noon, line):
    sweep_sessions(now=NOON + timedelta(seconds=3 * BUCKET_SECONDS))
    assert Session.objects.get().state == SessionState.ACTIVE, "a rekey is still taken"
    sweep_sessions(now=NOON + timedelta(seconds=4 * BUCKET_SECONDS))
    session = Session.objects.get()
    assert (session.state, session.end_reason) == (SessionState.ENDED, "key allowance used up")
    assert session.wrapped_secret is None


@pytest.mark.parametrize("bar", [revoke_device, suspend_device])
def test_a_barred_device_is_out_at_once(alice, line, bar):
    assert line.ask().status == 200
    request = line.seal()
    bar(alice.device.id, reason="stolen", actor=OPERATOR, now=NOON)
    session = Session.objects.get()
    assert (session.state, session.wrapped_secret) == (SessionState.ENDED, None)
    assert Event.objects.filter(kind="sessions.ended", payload__count=1).exists()
    with nothing_changed():
        assert_refused(line.send(request), "session-expired")


def test_barring_the_device_row_alone_ends_its_requests(alice, line):
    """Whoever revokes by another path than the service still shuts the device out."""
    Device.objects.filter(id=alice.device.id).update(state="revoked")
    with nothing_changed():
        assert_refused(line.send(line.seal()), "session-expired")


def test_a_device_closes_its_session(line):
    request = line.seal("/api/session/close")
    assert opened(request, line.send(request)).message == {}
    session = Session.objects.get()
    assert (session.state, session.end_reason) == (SessionState.ENDED, "closed by the device")
    with nothing_changed():
        assert_refused(line.send(request), "session-expired")
        assert_refused(line.send(line.seal()), "session-expired")


def test_the_client_takes_a_session_that_is_over_for_closed(alice):
    session = alice.session()
    session.post("/api/work", {})
    Session.objects.update(state="ended", wrapped_secret=None, ended_at=NOON)
    session.close()
    session.close()


def test_the_client_renews_a_session_that_the_server_ended(alice):
    session = alice.session()
    session.post("/api/work", {})
    Session.objects.update(state="ended", wrapped_secret=None, ended_at=NOON)
    assert session.post("/api/work", {})["round"] is None
    assert Session.objects.filter(state=SessionState.ACTIVE).count() == 1


def test_the_client_goes_on_over_epochs_and_limits(noon, alice):
    session = alice.session()
    for _ in range(70):
        session.post("/api/work", {})
    for _ in range(8):
        noon.shift(BUCKET_SECONDS)
        assert session.post("/api/work", {})["round"] is None
    assert Session.objects.get().generation == 3, "one session, rekeyed after 64 requests and twice after 3 buckets"


def test_an_unsealed_request_is_turned_away(alice):
    with nothing_changed():
        answer = alice.post_cbor("/api/work", {})
        assert_refused(answer, "permission-denied")
        answer = alice.http.send("POST", "/api/work", b"", {"Authorization": "Basic YWxpY2U6"})
        assert_refused(answer, "permission-denied")


@pytest.mark.parametrize(
    "header",
    [
        "QFLARE1",
        "QFLARE1 ",
        "QFLARE1 session=",
        "QFLARE1 session=00, generation=0, epoch=1, sequence=1, salt=00, tag=00",
        f"QFLARE1 session={'0' * 32}, generation=0, epoch=01, sequence=1, salt={'0' * 32}, tag={'0' * 32}",
        f"QFLARE1 session={'0' * 32}, generation=0, epoch=1, sequence=0, salt={'0' * 32}, tag={'0' * 32}",
        f"QFLARE1 session={'0' * 32}, generation=0, epoch=1, sequence=1, salt={'0' * 32}, tag={'A' * 32}",
        f"QFLARE1 session={'0' * 32}, generation=0, epoch=1, sequence=1, salt={'0' * 32}, tag={'0' * 32} ",
        f"QFLARE1 session={'0' * 32}, generation=0, epoch=1, sequence=1, salt={'0' * 32}, tag={'0' * 32}, more=1",
        f"QFLARE1 session={'0' * 32}, generation=0, epoch={'9' * 13}, sequence=1, salt={'0' * 32}, tag={'0' * 32}",
    ],
)
def test_an_authorization_header_of_another_form_is_refused(line, header):
    with nothing_changed():
        assert_refused(line.send(line.seal(), Authorization=header), "malformed-message")


def test_the_length_has_to_be_stated_and_true(line):
    request = line.seal(message={"a": "b" * 100})
    with nothing_changed():
        assert_refused(line.send(request, **{"Content-Length": ""}), "length-required")
        assert_refused(line.send(request, **{"Content-Length": "65537"}), "message-too-large")
        assert_refused(line.send(request, **{"Content-Length": "1000"}), "malformed-message")


@pytest.mark.parametrize("path", ["/api/work", "/api/session/close"])
class TestSealedBodies:
    def test_a_body_that_is_not_what_its_content_type_says_is_refused(self, line, path):
        for body in (b"\xff", b'{"json": 1}', b"", b"\xa0\xa0", b"\xbf\xff"):
            request = line.seal(path, body=body)
            with nothing_changed():
                answer = line.send(request, **{"Content-Type": SEALED_MEDIA_TYPE})
                assert_refused(opened(request, answer), "malformed-message")

    def test_another_inner_content_type_is_refused(self, line, path):
        for content_type in ("", "application/json", "application/cbor; charset=utf-8"):
            request = line.seal(path, content_type=content_type)
            with nothing_changed():
                assert_refused(opened(request, line.send(request)), "unsupported-media-type")

    def test_another_outer_content_type_is_refused(self, line, path):
        request = line.seal(path)
        for content_type in ("", CBOR, "application/json", "application/x-www-form-urlencoded"):
            with nothing_changed():
                answer = line.send(request, **{"Content-Type": content_type})
                assert_refused(opened(request, answer), "unsupported-media-type")

    def test_a_message_of_another_form_is_refused(self, line, path):
        for message in ([], 1, "text", {"more": 1}, {1: 1}):
            request = line.seal(path, body=encode(message))
            with nothing_changed():
                assert_refused(opened(request, line.send(request)), "malformed-message")

    def test_another_method_is_not_allowed(self, line, path):
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            request = line.seal(path, method=method)
            with nothing_changed():
                assert_refused(opened(request, line.send(request)), "method-not-allowed")


def test_a_refusal_inside_a_session_is_sealed_and_bound_to_its_request(line):
    request = line.seal(path="/api/global_model?federation=none", method="GET", body=b"", content_type="")
    answer = line.send(request)
    assert answer.headers["Content-Type"] == SEALED_MEDIA_TYPE
    assert b"qflare" not in answer.content
    answer.headers[CONTENT_TYPE_HEADER] = CBOR
    with pytest.raises(Refusal, match="answer-not-authentic"):
        opened(request, answer)


def test_a_changed_answer_is_refused_by_the_client(line):
    request = line.seal()
    answer = line.send(request)
    for content in (flipped(answer.content), flipped(answer.content, -1), answer.content[:-1], b""):
        with pytest.raises(Refusal, match="answer-not-authentic"):
            opened(request, replace_content(answer, content))
    answer.status_code = 201
    with pytest.raises(Refusal, match="answer-not-authentic"):
        opened(request, answer)


def replace_content(answer, content):
    return httpx.Response(answer.status_code, headers=answer.headers, content=content)


def test_the_keys_at_rest_are_wrapped(line):
    wrapped = bytes(Session.objects.get().wrapped_secret)
    assert line.chain.chain_key not in wrapped
    assert line.chain.derive_key("traffic") not in wrapped


def test_a_wrapped_key_moved_to_another_row_opens_nothing(alice):
    first, second = alice.line(), alice.line()
    Session.objects.filter(id=uuid.UUID(bytes=first.session_id)).update(
        wrapped_secret=Session.objects.get(id=uuid.UUID(bytes=second.session_id)).wrapped_secret
    )
    with nothing_changed("request.refused"):
        assert_refused(first.send(first.seal()), "session-expired")
    refused = Event.objects.get(kind="request.refused")
    assert (refused.payload["device"], refused.payload["reason"]) == ("alice", "session keys do not open")
