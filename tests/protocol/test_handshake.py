"""The handshake M1 to M4: both sides agree on everything, or neither has a session."""

import uuid

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import DeviceKeys, RegisteredKeys, generate_device_keypair
from qflare_protocol.encoding import digest, encode
from qflare_protocol.epochs import SessionLimits, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import (
    ClientHandshake,
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
DEVICE, SESSION = b"d" * 16, b"s" * 16
ALICE, MALLORY = generate_device_keypair("QF1-F640"), generate_device_keypair("QF1-F640")


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


SERVER, OTHER_SERVER = new_signer(), new_signer()


def registered(keys=ALICE):
    return RegisteredKeys(keys.suite, keys.kem.public, keys.signer.public)


def client(keys=ALICE, **changes):
    return ClientHandshake(DEVICE, keys, SERVER.verifier, **({"now": NOW, "checkpoint": None} | changes))


def serve(message, keys=ALICE, identity=SERVER, qkd_key=None, **changes):
    """Do the server's part for M1: return M2 and what is kept."""
    request = read_challenge_request(message)
    verify_challenge_request(message, request, registered(keys))
    members = {"session_id": SESSION, "server_time": NOW, "limits": SessionLimits(), "checkpoint": "note",
               "consistency_proof": [b"h" * 32], "current_key": keys.signer.fingerprint}  # fmt: skip
    ephemeral = pqc.kem("ML-KEM-1024").generate()
    terms = Terms(**(members | changes))
    answer, pending = answer_challenge(message, request, registered(keys), terms, identity, ephemeral=ephemeral)
    return answer, pending.with_qkd_key(qkd_key)


def refused(code, call, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)
    assert caught.value.code == code


def resigned(handshake, answer, **changes):
    payload = unverified_payload(answer, purpose="M2") | changes
    return sign1(SERVER, payload, purpose="M2", bound_to=digest("M1", handshake.request))


def test_both_sides_agree():
    handshake = client(checkpoint=SeenCheckpoint(3, b"r" * 32))
    answer, pending = serve(handshake.request)
    session_id, ciphertext, confirmation = handshake.respond(answer)
    final, chain = accept_response(PendingHandshake.from_bytes(pending.to_bytes()), ciphertext, confirmation)
    established = handshake.establish(final)
    assert established.chain == chain
    assert (established.session_id, established.suite) == (session_id, "QF1-F640") == (SESSION, "QF1-F640")
    assert (established.limits, established.clock_offset) == (SessionLimits(), 0.0)
    assert (established.checkpoint, established.consistency_proof) == ("note", [b"h" * 32])
    assert chain.epoch == bucket_of(NOW)


def test_two_handshakes_share_no_key():
    chains = []
    for _ in range(2):
        handshake = client()
        answer, pending = serve(handshake.request)
        _, ciphertext, confirmation = handshake.respond(answer)
        chains.append(accept_response(pending, ciphertext, confirmation)[1].chain_key)
    assert chains[0] != chains[1]


M1_CHANGES = {
    "suites": [],
    "device_id": b"e" * 16,
    "nonce": bytes(32),
    "bucket": bucket_of(NOW) + 1,
    "ephemeral_key": pqc.kem("ML-KEM-1024").generate().public,
    "checkpoint": [1, bytes(32)],
    "server_identity": bytes(32),
    "qkd_key_id": bytes(16),
}


@pytest.mark.parametrize("member", M1_CHANGES)
def test_a_changed_m1_does_not_verify(member):
    """Whoever changes a member on the way cannot sign it as the device."""
    payload = unverified_payload(client().request, purpose="M1") | {member: M1_CHANGES[member]}
    forged = sign1(MALLORY.signer, payload, purpose="M1")
    refused("invalid-signature", serve, forged)
    disguised = Signer("ML-DSA-44", MALLORY.signer.private, ALICE.signer.public)
    refused("invalid-signature", serve, sign1(disguised, payload, purpose="M1"))


def m2_changes():
    kem, registered_kem = pqc.kem("ML-KEM-1024"), pqc.kem("FrodoKEM-640-AES")
    return {
        "session_id": b"t" * 16,
        "nonce": bytes(32),
        "epoch": bucket_of(NOW) + 1,
        "server_time": 1,
        "ephemeral_ciphertext": kem.encapsulate(kem.generate().public)[1],
        "registered_ciphertext": registered_kem.encapsulate(MALLORY.kem.public)[1],
        "ephemeral_key": kem.generate().public,
        "limits": [1, 1, 1, 1],
        "checkpoint": None,
        "consistency_proof": [],
        "rotate_keys": True,
        "current_key": bytes(32),
    }


@pytest.mark.parametrize("member", m2_changes())
def test_a_changed_m2_is_refused_by_its_signature(member):
    handshake = client()
    answer, _ = serve(handshake.request)
    payload = unverified_payload(answer, purpose="M2") | {member: m2_changes()[member]}
    forged = sign1(OTHER_SERVER, payload, purpose="M2", bound_to=digest("M1", handshake.request))
    refused("invalid-signature", handshake.respond, forged)


@pytest.mark.parametrize("member", m2_changes())
def test_even_a_signed_change_of_m2_is_noticed_at_the_confirmation(member):
    """The transcript holds all of M2: one that the server did not keep leads to no session."""
    handshake = client()
    answer, pending = serve(handshake.request)
    _, ciphertext, confirmation = handshake.respond(resigned(handshake, answer, **{member: m2_changes()[member]}))
    refused("authentication-failed", accept_response, pending, ciphertext, confirmation)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"suite": "QF1-K1024"}, "suite-refused"),
        ({"suite": 1}, "malformed-message"),
        ({"ephemeral_key": bytes(1568)}, "invalid-key"),
        ({"ephemeral_key": bytes(1567)}, "invalid-key"),
        ({"ephemeral_key": "text"}, "invalid-key"),
        ({"ephemeral_ciphertext": bytes(1567)}, "malformed-message"),
        ({"ephemeral_ciphertext": None}, "malformed-message"),
        ({"registered_ciphertext": bytes(9720)}, "malformed-message"),
        ({"session_id": bytes(15)}, "malformed-message"),
        ({"more": 1}, "malformed-message"),
    ],
)
def test_an_m2_out_of_form_is_refused(changes, code):
    handshake = client()
    answer, _ = serve(handshake.request)
    refused(code, handshake.respond, resigned(handshake, answer, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": [1, 1, 1]}, {"limits": [0, 1, 1, 1]}, {"limits": [True, 1, 1, 1]}, {"limits": "1111"},
        {"limits": [1.0, 1, 1, 1]}, {"checkpoint": "text"}, {"checkpoint": b"\xff"}, {"checkpoint": bytes(16385)},
        {"consistency_proof": None}, {"consistency_proof": [b""] * 129}, {"consistency_proof": ["text"]},
        {"limits": [65, 1, 1, 1]}, {"limits": [1, 2**28 + 1, 1, 1]}, {"limits": [1, 1, 4, 1]},
        {"limits": [1, 1, 1, 3601]}, {"rotate_keys": 1}, {"rotate_keys": None}, {"current_key": bytes(31)},
        {"epoch": -1}, {"epoch": 1.5}, {"epoch": 5}, {"epoch": 2**40}, {"server_time": 5},
        {"server_time": True}, {"server_time": "now"},
    ],
)  # fmt: skip
def test_terms_out_of_form_make_no_session(changes, monkeypatch):
    handshake = client()
    answer, pending = serve(handshake.request)
    forged = resigned(handshake, answer, **changes)
    transcript = digest("M1 M2", digest("M1", handshake.request), digest("M2", forged))
    kept = PendingHandshake(
        pending.suite, transcript, pending.epoch, pending.ephemeral_secret, pending.registered_secret,
        pending.ephemeral_private, None,
    )  # fmt: skip
    _, ciphertext, confirmation = handshake.respond(forged)
    final, _ = accept_response(kept, ciphertext, confirmation)
    refused("malformed-message", handshake.establish, final)


def test_an_m2_replayed_to_another_m1_is_refused():
    first, second = client(), client()
    answer, _ = serve(first.request)
    refused("invalid-signature", second.respond, answer)


def test_another_servers_answer_is_refused():
    handshake = client()
    answer, _ = serve(handshake.request, identity=OTHER_SERVER)
    refused("invalid-signature", handshake.respond, answer)


def test_a_swapped_ciphertext_in_m3_is_noticed_at_the_confirmation():
    handshake = client()
    answer, pending = serve(handshake.request)
    _, _, confirmation = handshake.respond(answer)
    _, other = pqc.kem("ML-KEM-1024").encapsulate(unverified_payload(answer, purpose="M2")["ephemeral_key"])
    refused("authentication-failed", accept_response, pending, other, confirmation)
    refused("malformed-message", accept_response, pending, b"", confirmation)


def test_a_device_without_the_registered_key_is_noticed_at_the_confirmation():
    """Mallory stole the signature key alone: the secret to the registered KEM key is not hers."""
    thief = DeviceKeys(ALICE.suite, MALLORY.kem, ALICE.signer)
    handshake = client(thief)
    answer, pending = serve(handshake.request)
    _, ciphertext, confirmation = handshake.respond(answer)
    refused("authentication-failed", accept_response, pending, ciphertext, confirmation)


@pytest.mark.parametrize("position", [0, 31, 63])
def test_a_changed_confirmation_makes_a_session_on_neither_side(position):
    handshake = client()
    answer, pending = serve(handshake.request)
    _, ciphertext, confirmation = handshake.respond(answer)
    changed = bytearray(confirmation)
    changed[position] ^= 1
    refused("authentication-failed", accept_response, pending, ciphertext, bytes(changed))
    final, _ = accept_response(pending, ciphertext, confirmation)
    wrong = bytearray(final)
    wrong[position] ^= 1
    refused("server-not-authenticated", handshake.establish, bytes(wrong))
    refused("server-not-authenticated", handshake.establish, confirmation)


def test_nothing_is_established_before_m2_or_twice():
    handshake = client()
    refused("server-not-authenticated", handshake.establish, bytes(64))
    answer, pending = serve(handshake.request)
    _, ciphertext, confirmation = handshake.respond(answer)
    final, _ = accept_response(pending, ciphertext, confirmation)
    handshake.establish(final)
    refused("server-not-authenticated", handshake.establish, final)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"suites": []}, "suite-refused"),
        ({"suites": ["QF1-K1024"]}, "suite-refused"),
        ({"ephemeral_key": bytes(1568)}, "invalid-key"),
        ({"ephemeral_key": b"\xff" * 1568}, "invalid-key"),
        ({"ephemeral_key": b""}, "invalid-key"),
    ],
)
def test_a_signed_m1_that_asks_for_less_is_refused(changes, code):
    payload = unverified_payload(client().request, purpose="M1") | changes
    refused(code, serve, sign1(ALICE.signer, payload, purpose="M1"))


def test_a_request_is_bounded():
    refused("malformed-message", read_challenge_request, encode([b"", {}, bytes(70_000), b""]))


def test_clocks_may_differ_by_one_bucket():
    request = read_challenge_request(client().request)
    for seconds in (-300, 0, 300):
        check_clock(request.bucket, now=NOW + seconds)
    for seconds in (-301, 600):
        refused("clock-skew", check_clock, request.bucket, now=NOW + seconds)


QKD = QkdKey(uuid.UUID(int=7), b"q" * 32)


def test_a_qkd_key_enters_the_root_as_one_more_secret():
    handshake = client(qkd=QKD)
    assert read_challenge_request(handshake.request).qkd_key_id == QKD.key_id.bytes
    answer, pending = serve(handshake.request, qkd_key=QKD.key)
    _, ciphertext, confirmation = handshake.respond(answer)
    final, chain = accept_response(PendingHandshake.from_bytes(pending.to_bytes()), ciphertext, confirmation)
    assert handshake.establish(final).chain == chain


@pytest.mark.parametrize(("device", "server"), [(QKD, None), (None, QKD.key), (QKD, b"p" * 32), (QKD, bytes(32))])
def test_sides_with_different_qkd_keys_have_no_session(device, server):
    handshake = client(qkd=device)
    answer, pending = serve(handshake.request, qkd_key=server)
    _, ciphertext, confirmation = handshake.respond(answer)
    refused("authentication-failed", accept_response, pending, ciphertext, confirmation)


def test_the_kem_secrets_are_needed_beside_the_qkd_key():
    """Whoever holds the QKD key but not the device's registered KEM key gets nowhere."""
    handshake = client(DeviceKeys(ALICE.suite, MALLORY.kem, ALICE.signer), qkd=QKD)
    answer, pending = serve(handshake.request, qkd_key=QKD.key)
    _, ciphertext, confirmation = handshake.respond(answer)
    refused("authentication-failed", accept_response, pending, ciphertext, confirmation)


def test_a_rotated_server_identity_is_followed_to_the_key_that_signed_m2():
    statement = make_succession(SERVER, OTHER_SERVER, rotated_at=int(NOW))
    handshake = client()
    answer, pending = serve(handshake.request, identity=OTHER_SERVER)
    refused("invalid-signature", client().respond, answer)
    _, ciphertext, confirmation = handshake.respond(answer, [statement])
    final, _ = accept_response(pending, ciphertext, confirmation)
    assert handshake.establish(final).server_identity == OTHER_SERVER.verifier


@pytest.mark.parametrize("value", [[1], [1, bytes(31)], [-1, bytes(32)], [True, bytes(32)], "1", {}])
def test_a_checkpoint_out_of_form_is_refused(value):
    refused("malformed-message", SeenCheckpoint.from_wire, value)


def test_no_secret_shows():
    handshake = client()
    _, pending = serve(handshake.request)
    for secret in (pending.ephemeral_secret, pending.registered_secret, pending.ephemeral_private):
        assert repr(secret) not in repr(pending)
    assert repr(ALICE.kem.private)[:40] not in repr(ALICE) + repr(handshake)
    assert repr(ALICE.signer.private)[:40] not in repr(ALICE)
