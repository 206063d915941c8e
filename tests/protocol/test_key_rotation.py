"""A device's new keys: all three private keys are proved before the server believes any of it."""

import pytest

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import DeviceKeys, RegisteredKeys, generate_device_keypair
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal
from qflare_protocol.key_rotation import (
    RotationClient,
    RotationRequest,
    check_rotation_response,
    make_rotation_challenge,
    make_rotation_confirmation,
    read_rotation,
)

SUITE, DEVICE, SESSION = "QF1-K1024", b"d" * 16, b"s" * 16
OLD, NEW, MALLORY = (generate_device_keypair(SUITE) for _ in range(3))


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


SERVER, OTHER_SERVER = new_signer(), new_signer()


def public(keys):
    return RegisteredKeys(keys.suite, keys.kem.public, keys.signer.public)


def client(old=OLD, new=NEW, session=SESSION, device=DEVICE):
    return RotationClient(device, session, old, new, SERVER.verifier)


def read(request):
    return read_rotation(request, device_id=DEVICE, session_id=SESSION, registered=public(OLD))


def challenged(rotation):
    return make_rotation_challenge(rotation.request, read(rotation.request), identity=SERVER, attempt=b"a" * 16)


def confirmed(challenge, keys=NEW, identity=SERVER):
    return make_rotation_confirmation(
        challenge.secret_state, public(keys), identity=identity, valid_from=1, predecessor_valid_until=2
    )


def refused(code, call, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)
    assert caught.value.code == code


def test_both_sides_end_with_the_new_keys():
    rotation = client()
    challenge = challenged(rotation)
    attempt, confirmation = rotation.respond(challenge.message)
    check_rotation_response(challenge.secret_state, confirmation)
    assert (attempt, rotation.complete(confirmed(challenge))) == (b"a" * 16, 2)
    assert read(rotation.request) == public(NEW)


def test_the_old_key_must_authorise():
    """Mallory holds the session's keys; without the old signature key she registers nothing."""
    refused("invalid-signature", read, client(old=MALLORY).request)
    own, others = client().request, client(new=MALLORY).request
    refused("invalid-signature", read, RotationRequest(others.begin, own.authorization))


def test_the_new_signature_key_must_sign():
    stolen = DeviceKeys(SUITE, NEW.kem, Signer(NEW.signer.algorithm, MALLORY.signer.private, NEW.signer.public))
    refused("invalid-signature", read, client(new=stolen).request)


def test_the_new_kem_key_must_open_the_challenge():
    foreign = DeviceKeys(SUITE, pqc.KeyPair(MALLORY.kem.private, NEW.kem.public), NEW.signer)
    rotation = client(new=foreign)
    challenge = challenged(rotation)
    _, confirmation = rotation.respond(challenge.message)
    refused("key-rotation-refused", check_rotation_response, challenge.secret_state, confirmation)


@pytest.mark.parametrize("changes", [{"session": b"t" * 16}, {"device": b"e" * 16}])
def test_a_rotation_belongs_to_its_session_and_device(changes):
    refused("invalid-signature", read, client(**changes).request)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"suite": "QF1-F640"}, "suite-refused"),
        ({"suite": 1}, "malformed-message"),
        ({"kem_key": bytes(1568)}, "invalid-key"),
        ({"kem_key": b""}, "invalid-key"),
        ({"signature_key": bytes(1312)}, "invalid-key"),
        ({"nonce": b""}, "malformed-message"),
        ({"more": 1}, "malformed-message"),
    ],
)
def test_a_rotation_out_of_form_is_refused(changes, code):
    payload = unverified_payload(client().request.begin, purpose="key rotation") | changes
    begin = sign1(NEW.signer, payload, purpose="key rotation", bound_to=SESSION)
    refused(code, read, RotationRequest(begin, client().request.authorization))


def test_an_authorization_for_other_keys_is_refused():
    begin = client().request.begin
    named = {"kem_key": bytes(32), "signature_key": NEW.signer.fingerprint}
    bound_to = digest("key rotation begin", begin)
    forged = sign1(OLD.signer, named, purpose="key rotation authorization", bound_to=bound_to)
    refused("invalid-signature", read, RotationRequest(begin, forged))


def test_only_the_pinned_server_may_challenge_and_confirm():
    rotation = client()
    forged = make_rotation_challenge(rotation.request, public(NEW), identity=OTHER_SERVER, attempt=b"a" * 16)
    refused("invalid-signature", rotation.respond, forged.message)
    challenge = challenged(rotation)
    rotation.respond(challenge.message)
    refused("invalid-signature", rotation.complete, confirmed(challenge, identity=OTHER_SERVER))
    refused("key-rotation-refused", rotation.complete, confirmed(challenge, keys=MALLORY))


def test_a_challenge_for_another_rotation_is_refused():
    refused("invalid-signature", client().respond, challenged(client()).message)


@pytest.mark.parametrize("position", [0, 63])
def test_a_changed_confirmation_is_refused(position):
    rotation = client()
    challenge = challenged(rotation)
    changed = bytearray(rotation.respond(challenge.message)[1])
    changed[position] ^= 1
    refused("key-rotation-refused", check_rotation_response, challenge.secret_state, bytes(changed))


def test_no_secret_shows():
    challenge = challenged(client())
    assert repr(challenge.secret_state)[2:20] not in repr(challenge)
