"""Rekeying on a real server: when it is due, what it survives, and what a thief has afterwards."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from audit.models import Event
from edge_client.http import ServerUnreachable
from edge_client.key_renewal import rekey_session
from keyring import envelope
from qflare_protocol import rekey
from qflare_protocol.cose import unverified_payload
from qflare_protocol.encoding import digest, encode
from qflare_protocol.epochs import BUCKET_SECONDS, EpochChain
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import extract
from qflare_protocol.pqc import kem
from qflare_protocol.rekey import RekeyContext
from qflare_protocol.sealed_request import RequestOpener
from sessions.models import Session, SessionState
from sessions.services import load_chain, suspend_device, sweep_sessions
from tests.people import OPERATOR, Line, Person, assert_refused, cbor, nothing_changed, third_message

START = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)  # five seconds into a bucket
PATH = "/api/session/rekey"


def session_row() -> Session:
    return Session.objects.get(state=SessionState.ACTIVE)


def stored_chain() -> EpochChain:
    return load_chain(session_row())


def rekeyed_events() -> list[int]:
    events = Event.objects.filter(kind="session.rekeyed").order_by("id")
    return [event.payload["generation"] for event in events]


def test_a_used_up_allowance_is_renewed_without_a_handshake(alice: Person, settings) -> None:
    settings.QFLARE_SESSION_LIMITS = {"requests": 2}
    session = alice.session()
    for _ in range(7):
        session.post("/api/work", {})
    assert Session.objects.count() == 1
    assert (session_row().generation, session_row().requests) == (3, 1)
    assert rekeyed_events() == [1, 2, 3]


def test_transferred_bytes_are_an_allowance_too(alice: Person, settings) -> None:
    settings.QFLARE_SESSION_LIMITS = {"transfer_bytes": 3}
    session = alice.session()
    for _ in range(4):
        session.post("/api/work", {})  # a body of one byte each
    assert session_row().generation == 1


def test_three_buckets_end_a_generation(alice: Person) -> None:
    with time_machine.travel(START, tick=False) as clock:
        session = alice.session()
        for bucket in range(7):
            clock.move_to(START + timedelta(seconds=bucket * BUCKET_SECONDS))
            session.post("/api/work", {})
    assert Session.objects.count() == 1
    assert rekeyed_events() == [1, 2]
    assert session_row().generation == 2


def test_an_hour_ends_a_session_whatever_its_generations(alice: Person) -> None:
    with time_machine.travel(START, tick=False) as clock:
        session = alice.session()
        for bucket in range(13):
            clock.move_to(START + timedelta(seconds=bucket * BUCKET_SECONDS))
            session.post("/api/work", {})
    assert Session.objects.count() == 2


def test_a_device_that_was_silent_for_too_long_shakes_hands(alice: Person) -> None:
    with time_machine.travel(START, tick=False) as clock:
        session = alice.session()
        session.post("/api/work", {})
        clock.move_to(START + timedelta(seconds=4 * BUCKET_SECONDS))
        session.post("/api/work", {})
    assert Session.objects.count() == 2


def test_a_used_up_generation_serves_nothing_but_its_renewal(alice: Person, settings) -> None:
    line = alice.line()
    settings.QFLARE_SESSION_LIMITS = {"requests": 1}
    assert line.ask().status == 200
    with nothing_changed():
        assert_refused(line.ask(), "session-limit-reached")
    assert line.ask(PATH, {"offer": offer_of(alice, line)}).status == 200
    assert session_row().generation == 1


def offer_of(person: Person, line: Line) -> bytes:
    context = RekeyContext(person.identity.keys.suite, line.session_id, line.chain)
    return rekey.make_offer(
        context, kem("ML-KEM-1024").generate(), person.identity.keys.signer, epoch=line.chain.epoch
    ).message


class TestWhatAThiefHas:
    """The state is stolen from the server's database with its wrapping key, or from the device's disk."""

    def test_the_state_after_an_epoch_gives_no_earlier_key(self, alice: Person) -> None:
        with time_machine.travel(START, tick=False) as clock:
            session = alice.session()
            session.post("/api/work", {})
            earlier = stored_chain()
            clock.move_to(START + timedelta(seconds=BUCKET_SECONDS + 40))
            session.post("/api/work", {})
            kept = envelope.unwrap(bytes(session_row().wrapped_secret), **session_row().envelope())
            assert earlier.chain_key not in kept
            assert earlier.derive_key("traffic") not in kept
            stolen = EpochChain.from_bytes(kept)
            with pytest.raises(Refusal, match="epoch-expired"):
                stolen.traffic_key(earlier.epoch, 0, now=clock_seconds())
            with pytest.raises(ValueError, match="never goes back"):
                stolen.advance(earlier.epoch, now=0)

    def test_an_idle_session_forgets_too(self, alice: Person) -> None:
        with time_machine.travel(START, tick=False) as clock:
            alice.session().post("/api/work", {})
            earlier = stored_chain()
            clock.move_to(START + timedelta(seconds=2 * BUCKET_SECONDS))
            sweep_sessions(now=timezone.now())
            kept = envelope.unwrap(bytes(session_row().wrapped_secret), **session_row().envelope())
        assert earlier.chain_key not in kept
        assert earlier.derive_key("traffic") not in kept

    def test_the_registered_key_and_all_recorded_traffic_open_nothing(self, alice: Person) -> None:
        """Mallory recorded M1, M2, M3 and has the device's registered KEM key: one of three secrets."""
        handshake = alice.handshake()
        answered = cbor(alice.post_cbor("/api/challenge", {"request": handshake.request}))
        third = third_message(handshake, **answered)
        established = handshake.establish(cbor(alice.post_cbor("/api/authenticate", third))["confirmation"])
        line = Line(alice.http, established.session_id, established.chain)
        recorded = line.seal()
        stolen = alice.identity.keys.kem.private
        for guess in guessed_chains(stolen, handshake.request, answered["answer"], third["ciphertext"]):
            key = guess.derive_key("traffic")
            opener = RequestOpener(key, recorded.authorization, recorded.target)
            opener.update(recorded.body)
            with pytest.raises(Refusal, match="request-not-authentic"):
                opener.finish()
        assert line.send(recorded).status_code == 200

    def test_a_stolen_chain_heals_with_the_next_rekey(self, alice: Person) -> None:
        line = alice.line()
        stolen = stored_chain()
        assert stolen.chain_key == line.chain.chain_key
        renewed = renew(alice, line)
        assert stored_chain().chain_key == renewed.chain_key
        known = stolen.to_bytes()
        assert renewed.chain_key not in known
        assert renewed.ratchet_key not in known
        line.chain = EpochChain(renewed.epoch, stolen.chain_key, stolen.ratchet_key, generation=1)
        with nothing_changed("request.refused"):
            assert_refused(line.send(line.seal()), "request-not-authentic")
        line.chain = renewed
        assert line.ask().status == 200

    def test_whoever_has_the_chain_and_the_line_cannot_rekey(self, alice: Person, mallory: Person) -> None:
        line = alice.line()  # mallory's, with alice's keys of the session
        stranger = mallory.identity.keys.signer
        context = RekeyContext(alice.identity.keys.suite, line.session_id, line.chain)
        offer = rekey.make_offer(context, kem("ML-KEM-1024").generate(), stranger, epoch=line.chain.epoch)
        with nothing_changed("request.refused"):
            assert_refused(line.ask(PATH, {"offer": offer.message}), "invalid-signature")


def guessed_chains(kem_private: bytes, first: bytes, second: bytes, ciphertext: bytes) -> list[EpochChain]:
    """Return what can be made of recorded traffic and the registered KEM key, the ephemeral secrets being guessed."""
    members = unverified_payload(second, purpose="M2")
    known = kem("FrodoKEM-640-AES").decapsulate(kem_private, members["registered_ciphertext"])
    half = digest("M1 M2", digest("M1", first), digest("M2", second))
    transcript = digest("transcript", half, ciphertext)
    stranger = kem("ML-KEM-1024").generate().private
    decapsulated = [
        kem("ML-KEM-1024").decapsulate(stranger, taken) for taken in (members["ephemeral_ciphertext"], ciphertext)
    ]
    pairs = [(b"", b""), (bytes(32), bytes(32)), (known, known), tuple(decapsulated)]
    roots = [extract(transcript, one, known, two) for one, two in pairs] + [extract(transcript, known)]
    return [EpochChain.begin(root, members["epoch"]) for root in roots]


def renew(person: Person, line: Line) -> EpochChain:
    """Rekey a line once by the device's own code."""
    identity = person.identity
    return rekey_session(
        lambda message: line.ask(PATH, message).message,
        RekeyContext(identity.keys.suite, line.session_id, line.chain),
        keys=identity.keys,
        server=identity.identity,
        now=clock_seconds,
    )


class TestTurnsAndRetries:
    def test_the_sides_take_turns(self, alice: Person) -> None:
        line = alice.line()
        with nothing_changed("request.refused"):
            assert_refused(line.ask(PATH, {}), "rekey-refused")
        line.chain = renew(alice, line)
        with nothing_changed("request.refused", "request.refused"):
            assert_refused(line.ask(PATH, {"offer": offer_of(alice, line)}), "rekey-refused")
            assert_refused(line.ask(PATH, {"answer": b"", "confirmation": bytes(64)}), "rekey-refused")
        line.chain = renew(alice, line)
        assert session_row().generation == 2

    def test_a_lost_answer_is_answered_again_with_the_same_bytes(self, alice: Person) -> None:
        line = alice.line()
        request = line.seal(PATH, {"offer": offer_of(alice, line)})
        first = line.send(request)
        with nothing_changed():
            second = line.send(request)
        assert first.content == second.content
        assert rekeyed_events() == [1]

    def test_messages_under_way_open_for_thirty_seconds(self, alice: Person) -> None:
        with time_machine.travel(START, tick=False) as clock:
            line = alice.line()
            first, second = line.seal(), line.seal()
            line.chain = renew(alice, line)
            clock.move_to(START + timedelta(seconds=29))
            assert line.send(first).status_code == 200
            clock.move_to(START + timedelta(seconds=31))
            with nothing_changed("request.refused"):
                assert_refused(line.send(second), "epoch-expired")
            assert line.ask().status == 200

    def test_an_offer_of_the_server_lives_for_a_minute(self, alice: Person) -> None:
        with time_machine.travel(START, tick=False) as clock:
            line = alice.line()
            line.chain = renew(alice, line)
            offer = line.ask(PATH, {}).message["offer"]
            context = RekeyContext(alice.identity.keys.suite, line.session_id, line.chain)
            keys = alice.identity
            answer, renewal = rekey.answer_offer(
                context, offer, keys.identity, keys.keys.signer, epoch=line.chain.epoch, now=clock_seconds()
            )
            clock.move_to(START + timedelta(seconds=61))
            message = {"answer": answer, "confirmation": renewal.confirmation}
            with nothing_changed("request.refused"):
                assert_refused(line.ask(PATH, message), "rekey-refused")
            sweep_sessions(now=timezone.now())
        assert session_row().wrapped_offer is None

    def test_the_server_demands_the_devices_confirmation(self, alice: Person) -> None:
        line = alice.line()
        line.chain = renew(alice, line)
        offer = line.ask(PATH, {}).message["offer"]
        context = RekeyContext(alice.identity.keys.suite, line.session_id, line.chain)
        answer, _ = rekey.answer_offer(
            context, offer, alice.identity.identity, alice.identity.keys.signer, epoch=line.chain.epoch,
            now=clock_seconds(),
        )  # fmt: skip
        with nothing_changed("request.refused"):
            assert_refused(line.ask(PATH, {"answer": answer, "confirmation": bytes(64)}), "rekey-refused")

    def test_a_device_whose_rekey_is_refused_shakes_hands(self, alice: Person, settings) -> None:
        settings.QFLARE_SESSION_LIMITS = {"requests": 1}
        session = alice.session()
        session.post("/api/work", {})
        row = session_row()
        chain = replace(load_chain(row), ratchet_key=b"another" * 4)  # the sides have come apart
        row.wrapped_secret = envelope.wrap(chain.to_bytes(), **row.envelope())
        row.save()
        session.post("/api/work", {})
        assert Session.objects.count() == 2

    def test_a_server_that_is_away_ends_no_session(self, alice: Person, settings, monkeypatch) -> None:
        settings.QFLARE_SESSION_LIMITS = {"requests": 1}
        session = alice.session()
        session.post("/api/work", {})
        send = alice.http.send

        def gone(*arguments, **options):
            raise ServerUnreachable("gone")

        monkeypatch.setattr(alice.http, "send", gone)
        with pytest.raises(ServerUnreachable):
            session.post("/api/work", {})
        monkeypatch.setattr(alice.http, "send", send)
        session.post("/api/work", {})
        assert Session.objects.count() == 1


def clock_seconds() -> float:
    return timezone.now().timestamp()


@pytest.mark.parametrize(
    "message", [{"offer": 1}, {"offer": b""}, {"more": 1}, {"answer": b""}, {"answer": b"", "confirmation": b""}]
)
def test_a_rekey_out_of_form_is_refused(alice: Person, message) -> None:
    line = alice.line()
    with nothing_changed():
        assert_refused(line.ask(PATH, body=encode(message)), "malformed-message")


def test_a_suspended_device_does_not_rekey(alice: Person) -> None:
    line = alice.line()
    suspend_device(alice.device.id, reason="test", actor=OPERATOR, now=timezone.now())
    with nothing_changed():
        assert_refused(line.send(line.seal(PATH, {"offer": offer_of(alice, line)})), "session-expired")
