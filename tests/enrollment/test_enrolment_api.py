"""Enrolment over HTTP: what makes a token worthless, what a refusal says, and that it makes no device."""

import secrets
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from audit.models import Event
from devices.models import Device, DeviceKey
from edge_client.enrolment import enroll_device
from enrollment.models import EnrolmentAttempt, EnrolmentToken
from enrollment.services import delete_expired_attempts, issue_token, revoke_token
from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.encoding import encode
from qflare_protocol.enrolment import EnrolmentClient
from qflare_protocol.enrolment import EnrolmentToken as WireToken
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import DEFAULT_SUITE
from tests.people import OPERATOR, SERVER, DjangoHttp, assert_refused, cbor, nothing_changed

pytestmark = pytest.mark.django_db

KEYS = generate_device_keypair(DEFAULT_SUITE)
OTHER_KEYS = generate_device_keypair(DEFAULT_SUITE)


def issue(**options):
    return issue_token(actor=OPERATOR, now=timezone.now(), **options)


def client(token, name="carol", keys=KEYS):
    return EnrolmentClient(WireToken.from_text(token.text), name, keys)


def begin(person, message):
    return person.post_cbor("/api/enroll", {"begin": message})


def begun(person, exchange):
    """Return E3 of an exchange that the server has challenged."""
    attempt, sealed = exchange.finish(cbor(begin(person, exchange.begin))["challenge"])
    return {"attempt": attempt, "sealed_token": sealed}


def forged(exchange, keys=KEYS, signer=None, **changes):
    payload = unverified_payload(exchange.begin, purpose="enrol begin") | changes
    return sign1(signer or keys.signer, payload, purpose="enrol begin")


def last_event():
    return Event.objects.order_by("id").last()


def test_a_token_makes_one_active_device(mallory):
    token = issue(device_name="carol", group="north")
    identity = enroll_device(DjangoHttp(), SERVER, token.text, "carol")
    device = Device.objects.get()
    assert (device.name, device.group, device.state) == ("carol", "north", "active")
    assert device.id.bytes == identity.device_id
    used = EnrolmentToken.objects.get()
    assert (used.used_by, used.state(timezone.now())) == (device, "used")
    kinds = set(Event.objects.exclude(kind="server_key.made").values_list("kind", flat=True))
    assert kinds == {"token.issued", "device.enrolled", "token.used"}


def test_the_secret_of_a_token_is_never_stored(mallory):
    token = issue()
    secret = WireToken.from_text(token.text).secret
    row = EnrolmentToken.objects.get()
    assert secret not in bytes(row.lookup) + bytes(row.verifier)
    told = str(list(Event.objects.values_list("payload", flat=True)))
    assert token.text.split(".")[1] not in repr(token) + str(row) + told


def test_a_used_token_is_refused(mallory):
    token = issue()
    enroll_device(DjangoHttp(), SERVER, token.text, "carol")
    with nothing_changed("token.refused"):
        assert_refused(begin(mallory, client(token, "dave", OTHER_KEYS).begin), "token-used")
    assert last_event().payload["reason"] == "token-used"


def test_an_expired_token_is_refused(mallory):
    token = issue(lifetime=timedelta(seconds=1))
    with time_machine.travel(timezone.now() + timedelta(seconds=1)), nothing_changed("token.refused"):
        assert_refused(begin(mallory, client(token).begin), "token-expired")


def test_a_revoked_token_is_refused(mallory):
    token = issue()
    revoke_token(token.row.id, actor=OPERATOR, now=timezone.now())
    with nothing_changed("token.refused"):
        assert_refused(begin(mallory, client(token).begin), "token-revoked")


def test_an_unknown_token_is_refused(mallory):
    token = issue()
    unknown = WireToken.generate(WireToken.from_text(token.text).identity_fingerprint)
    with nothing_changed("token.refused"):
        assert_refused(begin(mallory, EnrolmentClient(unknown, "carol", KEYS).begin), "token-unknown")


def test_a_token_for_another_name_is_refused(mallory):
    token = issue(device_name="carol")
    with nothing_changed("token.refused"):
        assert_refused(begin(mallory, client(token, "mallory").begin), "token-name-mismatch")


def test_a_name_that_is_taken_is_refused(alice):
    token = issue()
    with nothing_changed():
        assert_refused(begin(alice, client(token, "alice").begin), "device-name-taken")


@pytest.mark.parametrize("keys", [KEYS, None], ids=["the same keys", "one key of another device"])
def test_a_key_that_is_registered_is_refused(mallory, keys):
    first = client(issue(), "carol")
    mallory.post_cbor("/api/enroll", begun(mallory, first))
    second = client(issue(), "dave", KEYS if keys else type(KEYS)(KEYS.suite, KEYS.kem, OTHER_KEYS.signer))
    message = begun(mallory, second)
    with nothing_changed():
        assert_refused(mallory.post_cbor("/api/enroll", message), "key-already-registered")


@pytest.mark.parametrize("member", ["kem_key", "signature_key"])
@pytest.mark.parametrize(
    "change", [lambda key: key[:-1], lambda key: key + b"\0", lambda key: bytes(len(key)), lambda _: b""]
)
def test_a_key_of_the_wrong_form_is_refused(mallory, member, change):
    token = issue()
    exchange = client(token)
    key = unverified_payload(exchange.begin, purpose="enrol begin")[member]
    with nothing_changed():
        assert_refused(begin(mallory, forged(exchange, **{member: change(key)})), "invalid-key")


@pytest.mark.parametrize("member", ["kem_key", "signature_key"])
@pytest.mark.parametrize("value", ["text", None, 5, [1]])
def test_an_undecodable_key_is_refused(mallory, member, value):
    with nothing_changed():
        assert_refused(begin(mallory, forged(client(issue_before()), **{member: value})), "malformed-message")


def issue_before():
    """A token text that no server issued, for messages that are refused before the token matters."""

    class Unissued:
        text = WireToken.generate(bytes(32)).to_text()

    return Unissued


def test_a_kem_key_whose_matrix_is_zero_is_refused(mallory):
    token = issue()
    key = b"\x01" * 16 + bytes(len(KEYS.kem.public) - 16)
    with nothing_changed():
        assert_refused(begin(mallory, forged(client(token), kem_key=key)), "invalid-key")


def test_random_bytes_in_place_of_keys_make_no_device(mallory):
    """They cannot be told from keys by their form; the proof of possession tells."""
    token = issue()
    message = forged(client(token), kem_key=secrets.token_bytes(len(KEYS.kem.public)))
    assert begin(mallory, message).status_code == 200
    with nothing_changed():
        finish = {"attempt": EnrolmentAttempt.objects.get().id.bytes, "sealed_token": bytes(48)}
        assert_refused(mallory.post_cbor("/api/enroll", finish), "enrolment-refused")


def test_a_signature_by_another_key_is_refused(mallory):
    exchange = client(issue())
    with nothing_changed():
        message = forged(exchange, signer=OTHER_KEYS.signer)
        assert_refused(begin(mallory, message), "invalid-signature")
        public = Signer(KEYS.signer.algorithm, OTHER_KEYS.signer.private, KEYS.signer.public)
        assert_refused(begin(mallory, forged(exchange, signer=public)), "invalid-signature")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"suite": "QF1-X"}, "suite-refused"),
        ({"suite": 1}, "suite-refused"),
        ({"suite": None}, "suite-refused"),
        ({"token": bytes(15)}, "malformed-message"),
        ({"name": ""}, "malformed-message"),
        ({"name": "a" * 101}, "malformed-message"),
        ({"name": "carol\0"}, "malformed-message"),
        ({"name": "carol\n"}, "malformed-message"),
        ({"name": b"carol"}, "malformed-message"),
        ({"nonce": bytes(31)}, "malformed-message"),
        ({"more": 1}, "malformed-message"),
    ],
)
def test_an_e1_out_of_form_is_refused(mallory, changes, code):
    exchange = client(issue())
    with nothing_changed():
        assert_refused(begin(mallory, forged(exchange, **changes)), code)


def test_an_e3_that_does_not_open_is_refused_and_the_token_stays_usable(mallory):
    exchange = client(issue())
    message = begun(mallory, exchange)
    for position in (0, 31, 47):
        sealed = bytearray(message["sealed_token"])
        sealed[position] ^= 1
        with nothing_changed():
            answer = mallory.post_cbor("/api/enroll", message | {"sealed_token": bytes(sealed)})
            assert_refused(answer, "enrolment-refused")
    for sealed in (b"", b"short", bytes(256)):
        with nothing_changed():
            answer = mallory.post_cbor("/api/enroll", message | {"sealed_token": sealed})
            assert_refused(answer, "enrolment-refused")
    assert mallory.post_cbor("/api/enroll", message).status_code == 200


def test_an_e3_of_another_attempt_is_refused(mallory):
    first, second = client(issue(), "carol"), client(issue(), "dave", OTHER_KEYS)
    one, two = begun(mallory, first), begun(mallory, second)
    with nothing_changed():
        answer = mallory.post_cbor("/api/enroll", one | {"sealed_token": two["sealed_token"]})
        assert_refused(answer, "enrolment-refused")


def test_knowing_the_lookup_without_the_secret_is_not_enough(mallory):
    """Mallory saw E1 on the wire: she has the lookup, not the secret."""
    token = issue()
    real = WireToken.from_text(token.text)
    guess = WireToken(bytes(32), real.identity_fingerprint)
    exchange = EnrolmentClient(guess, "carol", KEYS)
    exchange.begin = forged(exchange, token=real.lookup)
    message = begun(mallory, exchange)
    with nothing_changed():
        assert_refused(mallory.post_cbor("/api/enroll", message), "enrolment-refused")


@pytest.mark.parametrize("attempt", [bytes(16), uuid.uuid4().bytes])
def test_an_attempt_nobody_began_is_refused(mallory, attempt):
    with nothing_changed():
        answer = mallory.post_cbor("/api/enroll", {"attempt": attempt, "sealed_token": bytes(48)})
        assert_refused(answer, "enrolment-refused")


def test_a_challenge_answered_late_is_refused(mallory):
    with time_machine.travel(datetime(2026, 3, 1, tzinfo=UTC), tick=False) as clock:
        message = begun(mallory, client(issue()))
        clock.shift(120)
        with nothing_changed():
            assert_refused(mallory.post_cbor("/api/enroll", message), "enrolment-refused")
        assert delete_expired_attempts(now=timezone.now()) == 1
        with nothing_changed():
            assert_refused(mallory.post_cbor("/api/enroll", message), "enrolment-refused")


def test_the_same_e3_again_gets_the_same_e4(mallory):
    exchange = client(issue())
    message = begun(mallory, exchange)
    first = mallory.post_cbor("/api/enroll", message)
    with nothing_changed():
        again = mallory.post_cbor("/api/enroll", message)
    assert again.content == first.content
    assert exchange.complete(cbor(again)["confirmation"]).name == "carol"


def test_another_e3_to_a_finished_attempt_is_refused(mallory):
    message = begun(mallory, client(issue()))
    mallory.post_cbor("/api/enroll", message)
    with nothing_changed("token.refused"):
        answer = mallory.post_cbor("/api/enroll", message | {"sealed_token": bytes(48)})
        assert_refused(answer, "token-used")


@pytest.mark.parametrize("names", [("carol", "dave"), ("carol", "carol")])
def test_of_two_attempts_with_one_token_the_second_is_refused(mallory, names):
    token = issue()
    exchanges = client(token, names[0]), client(token, names[1], OTHER_KEYS)
    first, second = (begun(mallory, exchange) for exchange in exchanges)
    assert mallory.post_cbor("/api/enroll", first).status_code == 200
    with nothing_changed("token.refused"):
        assert_refused(mallory.post_cbor("/api/enroll", second), "token-used")
    assert (Device.objects.count(), DeviceKey.objects.count()) == (1, 2)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_token_that_ends_between_the_messages_makes_no_device(mallory, end):
    with time_machine.travel(timezone.now(), tick=False) as clock:
        token = issue(lifetime=timedelta(seconds=30))
        message = begun(mallory, client(token))
        if end == "revoked":
            revoke_token(token.row.id, actor=OPERATOR, now=timezone.now())
        else:
            clock.shift(30)
        with nothing_changed("token.refused"):
            assert_refused(mallory.post_cbor("/api/enroll", message), f"token-{end}")


def test_a_finished_attempt_keeps_no_secret(mallory):
    message = begun(mallory, client(issue()))
    assert EnrolmentAttempt.objects.get().wrapped_state is not None
    mallory.post_cbor("/api/enroll", message)
    assert EnrolmentAttempt.objects.get().wrapped_state is None


def test_the_device_refuses_a_server_that_the_token_does_not_pin(mallory):
    real = WireToken.from_text(issue().text)
    exchange = EnrolmentClient(WireToken(real.secret, bytes(32)), "carol", KEYS)
    with pytest.raises(Refusal, match="server-not-authenticated"):
        begun(mallory, exchange)


@pytest.mark.parametrize(
    "message", [{"attempt": b"", "sealed_token": b""}, {"attempt": bytes(16), "sealed_token": bytes(257)}]
)
def test_an_e3_out_of_form_is_refused(mallory, message):
    with nothing_changed():
        assert_refused(mallory.post_cbor("/api/enroll", message), "malformed-message")


def test_an_e1_is_bounded(mallory):
    with nothing_changed():
        assert_refused(begin(mallory, encode([b"", {}, bytes(60_000), b""])), "malformed-message")


class TestTokens:
    @pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=31)])
    def test_an_impossible_lifetime_is_refused(self, mallory, lifetime):
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            issue(lifetime=lifetime)

    def test_a_suite_nobody_serves_is_refused(self, mallory):
        with nothing_changed(), pytest.raises(Refusal, match="suite-refused"):
            issue(suite="QF1-M")

    def test_a_token_is_revoked_once(self, mallory):
        token = issue()
        revoke_token(token.row.id, actor=OPERATOR, now=timezone.now())
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            revoke_token(token.row.id, actor=OPERATOR, now=timezone.now())

    def test_a_used_token_is_not_revoked(self, mallory):
        token = issue()
        enroll_device(DjangoHttp(), SERVER, token.text, "carol")
        with nothing_changed(), pytest.raises(Refusal, match="conflict"):
            revoke_token(token.row.id, actor=OPERATOR, now=timezone.now())

    def test_the_texts_of_tokens_differ(self, mallory):
        assert issue().text != issue().text


def test_a_signature_key_of_another_algorithm_is_refused(mallory):
    pair = pqc.signature("ML-DSA-65").generate()
    signer = Signer("ML-DSA-65", pair.private, pair.public)
    with nothing_changed():
        message = forged(client(issue_before()), signer=signer, signature_key=pair.public)
        assert_refused(begin(mallory, message), "invalid-key")
