"""A man in the middle rewrites the handshake: whatever he does, neither side has a session.

Mallory sits on the line between alice's device and its server. She can change, drop, repeat and mix
messages and has keys of her own. In the last part she has also stolen the device's signature key.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.epochs import EpochChain, SessionLimits
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import (
    ClientHandshake,
    EstablishedSession,
    PendingHandshake,
    SeenCheckpoint,
    Terms,
    accept_response,
    answer_challenge,
    check_clock,
    read_challenge_request,
    verify_challenge_request,
)
from qflare_protocol.identity_succession import make_succession
from qflare_protocol.qkd.etsi014 import QkdKey

NOW = 1_772_366_400.0
SUITE, DEVICE_ID = "QF1-K1024", b"d" * 16
KEM = pqc.kem("ML-KEM-1024")
SEEN, QKD = SeenCheckpoint(3, b"r" * 32), QkdKey(uuid.UUID(int=7), b"q" * 32)


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


ALICE = generate_device_keypair(SUITE)
REGISTERED = RegisteredKeys(SUITE, ALICE.kem.public, ALICE.signer.public)
FIRST, SECOND, SERVER, MALLORY = (new_signer() for _ in range(4))
SUCCESSION = [make_succession(FIRST, SECOND, rotated_at=1), make_succession(SECOND, SERVER, rotated_at=2)]
MALLORYS_KEM = KEM.generate()


def unchanged(message):
    return message


@dataclass
class Handshake:
    """One handshake over Mallory's line; each attribute says what she makes of one message."""

    m1: Callable[[bytes], bytes] = unchanged
    m2: Callable[[bytes], bytes] = unchanged
    m3: Callable[[bytes, bytes], tuple[bytes, bytes]] = lambda ciphertext, confirmation: (ciphertext, confirmation)
    m4: Callable[[bytes], bytes] = unchanged
    succession: Callable[[list[bytes]], list[bytes]] = unchanged
    pinned: Signer = FIRST
    qkd: QkdKey | None = QKD
    device_session: EstablishedSession | None = None
    server_session: EpochChain | None = None
    sent: dict[str, object] = field(default_factory=dict)

    def run(self) -> None:
        """Shake hands. Raises the `Refusal` of the side that refuses first, which ends it for both."""
        device = ClientHandshake(DEVICE_ID, ALICE, self.pinned.verifier, now=NOW, checkpoint=SEEN, qkd=self.qkd)
        self.sent["m1"] = device.request
        answer, pending = serve(self.m1(device.request))
        self.sent["m2"] = answer
        _, ciphertext, confirmation = device.respond(self.m2(answer), self.succession(SUCCESSION))
        self.sent["m3"] = (ciphertext, confirmation)
        final, chain = accept_response(pending, *self.m3(ciphertext, confirmation))
        self.server_session = chain
        self.sent["m4"] = final
        self.device_session = device.establish(self.m4(final))


def serve(message: bytes) -> tuple[bytes, PendingHandshake]:
    """Do what the server does with an M1: its device is enrolled, its QKD key waits for the one who names it."""
    request = read_challenge_request(message)
    verify_challenge_request(message, request, REGISTERED)
    check_clock(request.bucket, now=NOW)
    terms = Terms(uuid.uuid4().bytes, NOW, SessionLimits(), "note", [b"h" * 32], ALICE.signer.fingerprint)
    named = QKD.key if request.qkd_key_id == QKD.key_id.bytes else None
    answer, pending = answer_challenge(message, request, REGISTERED, terms, SERVER, ephemeral=KEM.generate())
    return answer, pending.with_qkd_key(named)


def refused(code: str, **changes) -> Handshake:
    """Assert that the handshake ends in that refusal and with a session on neither side."""
    handshake = Handshake(**changes)
    with pytest.raises(Refusal) as caught:
        handshake.run()
    assert caught.value.code == code
    assert (handshake.device_session, handshake.server_session) == (None, None)
    return handshake


def test_without_mallory_both_sides_have_the_same_session():
    handshake = Handshake()
    handshake.run()
    assert handshake.device_session.chain == handshake.server_session
    assert handshake.device_session.server_identity == SERVER.verifier


# What she can write over a message: with its old signature, with her own, with her own in the signer's name.


def with_old_signature(message, payload, _signer, _purpose, _bound_to):
    parts = decode(message, what="message")
    return encode([parts[0], {}, encode(payload), parts[3]])


def with_her_own(_message, payload, _signer, purpose, bound_to):
    return sign1(MALLORY, payload, purpose=purpose, bound_to=bound_to)


def with_her_own_in_its_name(_message, payload, signer, purpose, bound_to):
    disguised = Signer(signer.algorithm, MALLORY.private, signer.public)
    return sign1(disguised, payload, purpose=purpose, bound_to=bound_to)


FORGERIES = [with_old_signature, with_her_own, with_her_own_in_its_name]

M1_CHANGES = {
    "removes every suite": {"suites": []},
    "removes the registered suite": {"suites": ["QF1-F640"]},
    "puts another suite before it": {"suites": ["QF1-F640", SUITE]},
    "adds a suite behind it": {"suites": [SUITE, "QF1-H1024"]},
    "adds a weaker suite that nobody knows": {"suites": ["QF1-K512", SUITE]},
    "swaps the name for another": {"suites": ["QF1-H1024"]},
    "spells the name in another way": {"suites": [SUITE.lower()]},
    "swaps the device's ephemeral key for her own": {"ephemeral_key": MALLORYS_KEM.public},
    "strips the checkpoint": {"checkpoint": None},
    "names an older checkpoint": {"checkpoint": [1, b"r" * 32]},
    "strips the QKD key": {"qkd_key_id": None},
    "names another QKD key": {"qkd_key_id": bytes(16)},
    "pins her own server": {"server_identity": MALLORY.fingerprint},
    "names another device": {"device_id": b"e" * 16},
    "sets the nonce": {"nonce": bytes(32)},
}


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("changes", M1_CHANGES.values(), ids=M1_CHANGES)
def test_a_rewritten_offer_is_refused_by_the_server(changes, forge):
    def rewritten(message):
        payload = unverified_payload(message, purpose="M1") | changes
        return forge(message, payload, ALICE.signer, "M1", b"")

    refused("invalid-signature", m1=rewritten)


def m2_changes():
    return {
        "swaps the suite": {"suite": "QF1-H1024"},
        "swaps the session": {"session_id": bytes(16)},
        "swaps the ciphertext to the ephemeral key": {"ephemeral_ciphertext": KEM.encapsulate(MALLORYS_KEM.public)[1]},
        "swaps the registered ciphertext": {"registered_ciphertext": KEM.encapsulate(ALICE.kem.public)[1]},
        "swaps the server's ephemeral key for her own": {"ephemeral_key": MALLORYS_KEM.public},
        "lowers the limits": {"limits": [1, 1, 1, 1]},
        "raises the limits": {"limits": [2**31, 2**31, 2**31, 2**31]},
        "strips the checkpoint": {"checkpoint": None},
        "shows another checkpoint": {"checkpoint": b"another note"},
        "strips the consistency proof": {"consistency_proof": []},
        "demands new keys": {"rotate_keys": True},
        "names another current key": {"current_key": MALLORY.fingerprint},
        "sets the epoch": {"epoch": 0},
        "sets the server's time": {"server_time": 0},
    }


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("change", m2_changes())
def test_a_rewritten_answer_is_refused_by_the_device(change, forge):
    handshake = Handshake()

    def rewritten(answer):
        payload = unverified_payload(answer, purpose="M2") | m2_changes()[change]
        return forge(answer, payload, SERVER, "M2", digest("M1", handshake.sent["m1"]))

    handshake.m2 = rewritten
    with pytest.raises(Refusal) as caught:
        handshake.run()
    assert caught.value.code == "invalid-signature"
    assert (handshake.device_session, handshake.server_session) == (None, None)


@pytest.mark.parametrize("side", ["m1", "m2"])
def test_an_unsigned_or_emptied_message_is_refused(side):
    for message in (b"", b"\xf6", encode([b"", {}, b"", b""])):
        refused("malformed-message", **{side: lambda _old, new=message: new})


# Messages of other handshakes.


def test_an_m2_of_another_handshake_is_refused_by_the_device():
    recorded = Handshake()
    recorded.run()
    refused("invalid-signature", m2=lambda _answer: recorded.sent["m2"])


def test_an_m2_made_of_two_is_refused_by_the_device():
    """The members of one handshake under the signature of another, and the other way about."""
    recorded = Handshake()
    recorded.run()
    old = decode(recorded.sent["m2"], what="message")
    refused("invalid-signature", m2=lambda answer: encode([*decode(answer, what="message")[:3], old[3]]))
    refused("invalid-signature", m2=lambda answer: encode([*old[:3], decode(answer, what="message")[3]]))


def test_a_replayed_m1_gives_a_challenge_that_its_recorder_cannot_answer():
    recorded = Handshake()
    recorded.run()
    _, pending = serve(recorded.sent["m1"])
    for ciphertext in (recorded.sent["m3"][0], KEM.encapsulate(MALLORYS_KEM.public)[1]):
        with pytest.raises(Refusal) as caught:
            accept_response(pending, ciphertext, recorded.sent["m3"][1])
        assert caught.value.code == "authentication-failed"


def test_a_replayed_m1_in_place_of_the_devices_own_is_refused_by_the_device():
    recorded = Handshake()
    recorded.run()
    refused("invalid-signature", m1=lambda _request: recorded.sent["m1"])


@pytest.mark.parametrize("part", ["both", "ciphertext", "confirmation"])
def test_an_m3_of_another_handshake_is_refused_by_the_server(part):
    recorded = Handshake()
    recorded.run()
    old_ciphertext, old_confirmation = recorded.sent["m3"]

    def replayed(ciphertext, confirmation):
        return (
            ciphertext if part == "confirmation" else old_ciphertext,
            confirmation if part == "ciphertext" else old_confirmation,
        )

    refused("authentication-failed", m3=replayed)


def test_mallorys_own_secret_in_m3_is_refused_by_the_server():
    """She knows what she encapsulates to the server's key; the two other secrets are what she lacks."""
    handshake = Handshake()

    def swapped(_ciphertext, confirmation):
        public = unverified_payload(handshake.sent["m2"], purpose="M2")["ephemeral_key"]
        return KEM.encapsulate(public)[1], confirmation

    handshake.m3 = swapped
    with pytest.raises(Refusal) as caught:
        handshake.run()
    assert caught.value.code == "authentication-failed"
    assert (handshake.device_session, handshake.server_session) == (None, None)


@pytest.mark.parametrize("kind", ["of another handshake", "the device's own", "zeros", "none"])
def test_a_forged_m4_gives_the_device_no_session(kind):
    """The server has proved nothing yet to the device; its own session dies unused."""
    recorded, handshake = Handshake(), Handshake()
    recorded.run()
    forged = {
        "of another handshake": lambda _final: recorded.sent["m4"],
        "the device's own": lambda _final: handshake.sent["m3"][1],
        "zeros": lambda _final: bytes(64),
        "none": lambda _final: b"",
    }
    handshake.m4 = forged[kind]
    with pytest.raises(Refusal) as caught:
        handshake.run()
    assert caught.value.code == "server-not-authenticated"
    assert handshake.device_session is None


# The server's identity.

MALLORYS_SUCCESSION = make_succession(SERVER, MALLORY, rotated_at=3)
HER_OWN = make_succession(MALLORY, SERVER, rotated_at=1)
SUCCESSIONS = {
    "drops it": ([], "invalid-signature"),
    "drops the first step": (SUCCESSION[1:], "server-not-authenticated"),
    "drops the last step": (SUCCESSION[:1], "invalid-signature"),
    "turns it round": (SUCCESSION[::-1], "server-not-authenticated"),
    "repeats a step": ([SUCCESSION[0], *SUCCESSION], "server-not-authenticated"),
    "puts her own in its place": ([HER_OWN], "server-not-authenticated"),
    "puts her own before it": ([HER_OWN, *SUCCESSION], "server-not-authenticated"),
    "sends garbage": ([b"\xff"], "server-not-authenticated"),
    "goes round for ever": (SUCCESSION * 20, "server-not-authenticated"),
}


@pytest.mark.parametrize(("steps", "code"), SUCCESSIONS.values(), ids=SUCCESSIONS)
def test_a_replaced_succession_is_refused_by_the_device(steps, code):
    refused(code, succession=lambda _steps: steps)


def test_a_succession_to_mallory_has_to_be_signed_by_the_server():
    succession = decode(MALLORYS_SUCCESSION, what="statement")
    parts = decode(succession["succession"], what="message")
    payload = decode(parts[2], what="payload")
    disguised = Signer(SERVER.algorithm, MALLORY.private, SERVER.public)
    forged = encode(succession | {"succession": sign1(disguised, payload, purpose="identity succession")})
    refused("server-not-authenticated", succession=lambda steps: [*steps, forged])


def test_a_server_of_mallorys_is_no_server():
    """She answers M1 herself and shakes hands to the end with keys of her own."""

    def her_answer(_answer):
        message = handshake.sent["m1"]
        request = read_challenge_request(message)
        terms = Terms(bytes(16), NOW, SessionLimits(), None, [], ALICE.signer.fingerprint)
        return answer_challenge(message, request, REGISTERED, terms, MALLORY, ephemeral=MALLORYS_KEM)[0]

    handshake = Handshake(m2=her_answer)
    with pytest.raises(Refusal) as caught:
        handshake.run()
    assert caught.value.code == "invalid-signature"
    assert (handshake.device_session, handshake.server_session) == (None, None)


# She has stolen the device's signature key, and still lowers nothing.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("removes every suite", "suite-refused"),
        ("removes the registered suite", "suite-refused"),
        ("swaps the name for another", "suite-refused"),
        ("spells the name in another way", "suite-refused"),
        ("puts another suite before it", "invalid-signature"),
        ("adds a suite behind it", "invalid-signature"),
        ("adds a weaker suite that nobody knows", "invalid-signature"),
        ("swaps the device's ephemeral key for her own", "invalid-signature"),
        ("strips the checkpoint", "invalid-signature"),
        ("strips the QKD key", "invalid-signature"),
    ],
)
def test_even_a_signed_change_of_the_offer_leads_to_no_session(change, code):
    """The server refuses the offer, or its answer is bound to an M1 that the device has not sent."""

    def resigned(message):
        payload = unverified_payload(message, purpose="M1") | M1_CHANGES[change]
        return sign1(ALICE.signer, payload, purpose="M1")

    refused(code, m1=resigned)


@pytest.mark.parametrize("suites", [["QF1-F640", SUITE], [SUITE, "QF1-H1024"], ["QF1-K512", SUITE, SUITE]])
def test_the_order_and_company_of_the_offer_do_not_choose_the_suite(suites):
    payload = unverified_payload(ClientHandshake(DEVICE_ID, ALICE, SERVER.verifier, now=NOW, checkpoint=None).request,
                                 purpose="M1") | {"suites": suites}  # fmt: skip
    answer, pending = serve(sign1(ALICE.signer, payload, purpose="M1"))
    assert unverified_payload(answer, purpose="M2")["suite"] == pending.suite == SUITE


def test_a_thief_of_the_signature_key_shakes_no_hands_in_the_devices_place():
    """With her own ephemeral key she has two of the three secrets; the registered key gives the third."""
    thief = generate_device_keypair(SUITE)
    stolen = type(ALICE)(SUITE, thief.kem, ALICE.signer)
    handshake = ClientHandshake(DEVICE_ID, stolen, SERVER.verifier, now=NOW, checkpoint=None)
    answer, pending = serve(handshake.request)
    _, ciphertext, confirmation = handshake.respond(answer)
    with pytest.raises(Refusal) as caught:
        accept_response(pending, ciphertext, confirmation)
    assert caught.value.code == "authentication-failed"


def test_a_qkd_key_stripped_under_a_stolen_signature_is_missed_at_the_confirmation():
    """Were M2 not bound to M1, the roots would still differ: the device mixes in a key the server does not."""
    device = ClientHandshake(DEVICE_ID, ALICE, SERVER.verifier, now=NOW, checkpoint=None, qkd=QKD)
    payload = unverified_payload(device.request, purpose="M1") | {"qkd_key_id": None}
    stripped = sign1(ALICE.signer, payload, purpose="M1")
    _, pending = serve(stripped)
    answer, _ = serve(device.request)
    _, ciphertext, confirmation = device.respond(answer)
    with pytest.raises(Refusal) as caught:
        accept_response(pending, ciphertext, confirmation)
    assert caught.value.code == "authentication-failed"
