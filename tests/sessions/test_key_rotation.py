"""Device keys in their whole life: rotated by the device, demanded by an operator, by age and by use, given anew."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from audit.models import Event
from devices.models import Device, DeviceKey, DeviceState, KeyPurpose
from devices.services import demand_key_rotation
from edge_client.enrolment import enroll_device
from edge_client.http import ServerUnreachable
from enrollment.services import issue_token
from qflare_protocol.device_keys import DeviceKeys, generate_device_keypair
from qflare_protocol.errors import Refusal
from qflare_protocol.key_rotation import RotationClient
from sessions.models import KeyRotationAttempt, Session
from sessions.services import revoke_device, sweep_sessions
from tests.people import (
    OPERATOR,
    SERVER,
    DjangoHttp,
    Line,
    Person,
    assert_refused,
    cbor,
    kept,
    nothing_changed,
    third_message,
)

NOW = datetime.now(UTC) + timedelta(hours=1)  # after the fixtures have enrolled
PATH = "/api/keys/rotate"


def versions() -> list[tuple[int, bool]]:
    rows = DeviceKey.objects.filter(purpose=KeyPurpose.SIGNATURE).order_by("version")
    return [(row.version, row.valid_until is None) for row in rows]


def challenge(person: Person, keys: DeviceKeys):
    """Begin a handshake with other keys than the person's current ones."""
    identity = replace(person.identity, keys=keys)
    other = replace(person, keeper=kept(identity))
    handshake = other.handshake()
    return handshake, other.post_cbor("/api/challenge", {"request": handshake.request})


def rotation_of(person: Person, line: Line, new: DeviceKeys | None = None, old: DeviceKeys | None = None):
    identity = person.identity
    new = new or generate_device_keypair(identity.keys.suite)
    return RotationClient(identity.device_id, line.session_id, old or identity.keys, new, identity.identity)


def first_message(rotation: RotationClient) -> dict[str, bytes]:
    return {"begin": rotation.request.begin, "authorization": rotation.request.authorization}


def finish(line: Line, rotation: RotationClient):
    attempt, confirmation = rotation.respond(line.ask(PATH, first_message(rotation)).message["challenge"])
    return line.ask(PATH, {"attempt": attempt, "confirmation": confirmation})


class TestRotation:
    def test_new_keys_are_current_and_old_ones_valid_for_the_overlap(self, alice: Person) -> None:
        old = alice.identity.keys
        with time_machine.travel(NOW, tick=False) as clock:
            session = alice.session()
            session.rotate_keys()
            assert not Session.objects.exclude(state="ended").exists()
            assert versions() == [(1, False), (2, True)]
            assert challenge(alice, old)[1].status_code == 200
            session.post("/api/work", {})
            clock.move_to(NOW + timedelta(hours=24))
            with nothing_changed("session.refused"):
                assert_refused(challenge(alice, old)[1], "authentication-failed")
        assert alice.identity.earlier_keys[0].keys == old
        assert Event.objects.filter(kind="device.keys_rotated").count() == 1

    def test_a_session_opened_in_the_overlap_uses_the_old_kem_key_too(self, alice: Person) -> None:
        old = alice.identity.keys
        alice.session().rotate_keys()
        handshake, answered = challenge(alice, old)
        message = cbor(answered)
        confirmed = alice.post_cbor("/api/authenticate", third_message(handshake, **message))
        established = handshake.establish(cbor(confirmed)["confirmation"])
        assert established.current_key == alice.identity.keys.signer.fingerprint != old.signer.fingerprint
        assert Session.objects.get(id__isnull=False, key_version=1, state="active")

    def test_nothing_changes_before_the_kem_key_is_proved(self, alice: Person) -> None:
        line = alice.line()
        stranger = generate_device_keypair(alice.identity.keys.suite)
        new = generate_device_keypair(alice.identity.keys.suite)
        half = DeviceKeys(new.suite, replace(stranger.kem, public=new.kem.public), new.signer)
        with nothing_changed_but_attempts():
            assert_refused(finish(line, rotation_of(alice, line, half)), "key-rotation-refused")
        assert versions() == [(1, True)]

    def test_the_keys_of_a_session_do_not_suffice(self, alice: Person, mallory: Person) -> None:
        line = alice.line()
        forged = rotation_of(alice, line, old=mallory.identity.keys)
        with nothing_changed("request.refused"):
            assert_refused(line.ask(PATH, first_message(forged)), "invalid-signature")

    def test_a_registered_key_is_registered_once(self, alice: Person) -> None:
        line = alice.line()
        with nothing_changed_but_attempts():
            assert_refused(finish(line, rotation_of(alice, line, alice.identity.keys)), "key-already-registered")

    def test_an_attempt_lives_for_two_minutes_and_for_one_use(self, alice: Person) -> None:
        with time_machine.travel(NOW, tick=False) as clock:
            line = alice.line()
            rotation = rotation_of(alice, line)
            attempt, confirmation = rotation.respond(line.ask(PATH, first_message(rotation)).message["challenge"])
            clock.move_to(NOW + timedelta(seconds=120))
            message = {"attempt": attempt, "confirmation": confirmation}
            with nothing_changed("request.refused"):
                assert_refused(line.ask(PATH, message), "key-rotation-refused")
            sweep_sessions(now=timezone.now())
        assert not KeyRotationAttempt.objects.exists()

    def test_a_lost_answer_is_answered_again(self, alice: Person) -> None:
        line = alice.line()
        rotation = rotation_of(alice, line)
        attempt, confirmation = rotation.respond(line.ask(PATH, first_message(rotation)).message["challenge"])
        request = line.seal(PATH, {"attempt": attempt, "confirmation": confirmation})
        first = line.send(request)
        with nothing_changed():
            assert line.send(request).content == first.content
        assert versions() == [(1, False), (2, True)]

    @pytest.mark.parametrize("message", [{}, {"begin": b""}, {"begin": b"", "authorization": b""}, {"attempt": b""}])
    def test_a_rotation_out_of_form_is_refused(self, alice: Person, message) -> None:
        line = alice.line()
        with nothing_changed():
            assert_refused(line.ask(PATH, message), "malformed-message")


class nothing_changed_but_attempts:
    """As `nothing_changed`, but for the attempt that the first half of a rotation leaves."""

    def __enter__(self) -> None:
        self._before = (versions(), list(Device.objects.values_list()))

    def __exit__(self, *exception: object) -> None:
        assert (versions(), list(Device.objects.values_list())) == self._before


class TestWhenNewKeysAreDue:
    def test_an_operator_demands_them_and_the_device_makes_them_at_once(self, alice: Person) -> None:
        session = alice.session()
        session.post("/api/work", {})
        demand_key_rotation(alice.device.id, reason="laptop was lent", actor=OPERATOR, now=timezone.now())
        session.post("/api/work", {})
        assert versions() == [(1, False), (2, True)]
        assert not alice.device.must_rotate_keys(timezone.now())

    def test_until_then_nothing_else_is_served(self, alice: Person) -> None:
        line = alice.line()
        demand_key_rotation(alice.device.id, reason="test", actor=OPERATOR, now=timezone.now())
        with nothing_changed():
            assert_refused(line.ask(), "key-rotation-required")
        assert finish(line, rotation_of(alice, line)).status == 200
        assert line.ask().status == 200

    def test_a_demand_is_met_however_many_rotations_came_before(self, alice: Person) -> None:
        """Refused for its earlier rotations, the device could neither work nor make the keys it needs to."""
        for _ in range(2):
            alice.session().rotate_keys()
        with nothing_changed_but_attempts(), pytest.raises(Refusal, match="conflict"):
            alice.session().rotate_keys()
        demand_key_rotation(alice.device.id, reason="test", actor=OPERATOR, now=timezone.now())
        alice.session().post("/api/work", {})
        assert [version for version, _ in versions()] == [1, 2, 3, 4]
        valid = [key_set.version for key_set in alice.device.key_sets(timezone.now())]
        assert valid == [4, 3, 2]

    def test_age_demands_them(self, alice: Person) -> None:
        start = timezone.now()
        with time_machine.travel(start + timedelta(days=89), tick=False) as clock:
            alice.session().post("/api/work", {})
            assert versions() == [(1, True)]
            clock.move_to(start + timedelta(days=91))
            alice.session().post("/api/work", {})
        assert versions() == [(1, False), (2, True)]

    def test_use_demands_them(self, alice: Person, settings) -> None:
        settings.QFLARE_DEVICE_KEYS = settings.QFLARE_DEVICE_KEYS | {"sessions": 3}
        for _ in range(2):
            alice.session().post("/api/work", {})
        assert versions() == [(1, True)]
        alice.session().post("/api/work", {})
        assert versions() == [(1, False), (2, True)]
        due = Event.objects.get(kind="device.keys_due")
        assert (due.payload["device"], due.payload["sessions"]) == ("alice", 3)

    def test_a_handshake_with_earlier_keys_is_no_use_of_the_current_ones(self, alice: Person, settings) -> None:
        settings.QFLARE_DEVICE_KEYS = settings.QFLARE_DEVICE_KEYS | {"sessions": 2}
        earlier = alice.keeper.identity
        alice.session().rotate_keys()
        renewed = alice.keeper.identity
        alice.line()
        alice.keeper.identity = earlier
        alice.line()
        assert not Event.objects.filter(kind="device.keys_due").exists()
        alice.keeper.identity = renewed
        alice.line()
        assert Event.objects.filter(kind="device.keys_due").exists()

    @pytest.mark.parametrize("reason", ["", "   "])
    def test_a_demand_has_a_reason(self, alice: Person, reason) -> None:
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            demand_key_rotation(alice.device.id, reason=reason, actor=OPERATOR, now=timezone.now())

    def test_none_are_demanded_of_a_revoked_device(self, bob: Person) -> None:
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            demand_key_rotation(bob.device.id, reason="test", actor=OPERATOR, now=timezone.now())


class LosesAnswers(DjangoHttp):
    """A line on which the answers to one path are lost, as often as it is told."""

    def __init__(self, path: str, skip: int, lose: int) -> None:
        super().__init__()
        self._path, self._skip, self._lose = path, skip, lose

    def send(self, method, path, body=b"", headers=None):
        answer = super().send(method, path, body, headers)
        if path == self._path:
            self._skip -= 1
            if self._skip < 0 < self._lose:
                self._lose -= 1
                raise ServerUnreachable("the answer is lost")
        return answer


class TestPowerAndNetworkLoss:
    @pytest.mark.parametrize("skip", [0, 1])
    def test_a_device_that_lost_every_answer_finds_out_what_became_of_its_keys(self, alice: Person, skip) -> None:
        """Lost: the challenge, or the confirmation; both answers of the sending and of the resending."""
        broken = replace(alice, http=LosesAnswers(PATH, skip, lose=2))
        with pytest.raises(ServerUnreachable):
            broken.session().rotate_keys()
        waiting = alice.identity.next_keys
        assert waiting is not None
        alice.session().post("/api/work", {})
        registered = skip == 1
        assert (alice.identity.keys == waiting) is registered
        assert versions() == ([(1, False), (2, True)] if registered else [(1, True)])

    def test_even_after_the_overlap(self, alice: Person) -> None:
        with time_machine.travel(NOW, tick=False) as clock:
            broken = replace(alice, http=LosesAnswers(PATH, 1, lose=2))
            with pytest.raises(ServerUnreachable):
                broken.session().rotate_keys()
            waiting = alice.identity.next_keys
            clock.move_to(NOW + timedelta(days=2))
            alice.session().post("/api/work", {})
        assert alice.identity.keys == waiting

    def test_keys_are_kept_before_the_server_hears_of_them(self, alice: Person) -> None:
        saved = []
        alice.keeper._save = saved.append
        broken = replace(alice, http=LosesAnswers(PATH, 0, lose=2))
        with pytest.raises(ServerUnreachable):
            broken.session().rotate_keys()
        assert saved[0].next_keys is not None
        begun = saved[0].next_keys
        alice.session().rotate_keys()
        assert alice.identity.keys == begun

    def test_a_device_whose_keys_were_rotated_by_a_thief_stops(self, alice: Person) -> None:
        thief = replace(alice, keeper=kept(alice.identity))
        thief.session().rotate_keys()
        with pytest.raises(Refusal, match="authentication-failed"):
            alice.session().post("/api/work", {})


class TestEnrollingAgain:
    def reenrolled(self, person: Person, **terms):
        now = timezone.now()
        token = issue_token(actor=OPERATOR, now=now, reenrols_id=person.device.id, **terms)
        return kept(enroll_device(DjangoHttp(), SERVER, token.text, person.name))

    def test_a_revoked_device_comes_back_with_new_keys_and_its_history(self, bob: Person) -> None:
        before = bob.device
        keeper = self.reenrolled(bob)
        assert keeper.identity.device_id == before.id.bytes
        assert (bob.device.state, bob.device.group) == (DeviceState.ACTIVE, before.group)
        replace(bob, keeper=keeper).session().post("/api/work", {})
        with nothing_changed("session.refused"):
            assert_refused(challenge(bob, bob.identity.keys)[1], "authentication-failed")
        assert Event.objects.filter(kind="device.reenrolled").count() == 1

    def test_keys_in_their_overlap_end_with_it(self, alice: Person) -> None:
        first = alice.identity.keys
        alice.session().rotate_keys()
        revoke_device(alice.device.id, reason="stolen", actor=OPERATOR, now=timezone.now())
        self.reenrolled(alice)
        for keys in (first, alice.identity.keys):
            assert_refused(challenge(alice, keys)[1], "authentication-failed")

    def test_it_may_come_back_with_another_suite(self, bob: Person) -> None:
        token = issue_token(actor=OPERATOR, now=timezone.now(), reenrols_id=bob.device.id, suite="QF1-K1024")
        keeper = kept(enroll_device(DjangoHttp(), SERVER, token.text, bob.name, suite="QF1-K1024"))
        replace(bob, keeper=keeper).session().post("/api/work", {})
        assert bob.device.suite == "QF1-K1024"

    def test_its_old_keys_do_not_come_back(self, bob: Person, monkeypatch) -> None:
        monkeypatch.setattr("edge_client.enrolment.generate_device_keypair", lambda suite: bob.identity.keys)
        with pytest.raises(Refusal, match="key-already-registered"):
            self.reenrolled(bob)
        assert bob.device.state == DeviceState.REVOKED

    def test_a_token_for_a_device_that_is_not_revoked_is_not_issued(self, alice: Person) -> None:
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            issue_token(actor=OPERATOR, now=timezone.now(), reenrols_id=alice.device.id)

    def test_of_two_tokens_for_one_device_one_is_used(self, bob: Person) -> None:
        tokens = [issue_token(actor=OPERATOR, now=timezone.now(), reenrols_id=bob.device.id) for _ in range(2)]
        enroll_device(DjangoHttp(), SERVER, tokens[0].text, bob.name)
        with pytest.raises(Refusal, match="conflict"):
            enroll_device(DjangoHttp(), SERVER, tokens[1].text, bob.name)
