"""Enrolment on the wire: token text, and what each side refuses of the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.encoding import digest
from qflare_protocol.enrolment import (
    EnrolmentClient,
    EnrolmentToken,
    make_challenge,
    make_confirmation,
    open_finish,
    read_begin,
    token_verifier,
)
from qflare_protocol.errors import Refusal


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


SERVER, OTHER = new_signer(), new_signer()
KEYS = generate_device_keypair("QF1-F640")
ATTEMPT = b"a" * 16
CONFIRMED = {"device_id": b"d" * 16, "name": "alice", "log_origin": "log", "log_key": b"k", "enrolled_at": 1}


def refused(code, call, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)
    assert caught.value.code == code


def begun(token=None):
    exchange = EnrolmentClient(token or EnrolmentToken.generate(SERVER.fingerprint), "alice", KEYS)
    begin = read_begin(exchange.begin)
    return exchange, make_challenge(exchange.begin, begin, identity=SERVER, attempt=ATTEMPT, expires_at=1)


def test_an_enrolment_ends_with_what_the_device_pins():
    token = EnrolmentToken.generate(SERVER.fingerprint)
    exchange, challenge = begun(token)
    attempt, sealed = exchange.finish(challenge.message)
    secret = open_finish(challenge.secret_state, sealed)
    assert (attempt, token_verifier(secret)) == (ATTEMPT, token.verifier)
    enrolled = exchange.complete(make_confirmation(challenge.secret_state, sealed, CONFIRMED, identity=SERVER))
    assert (enrolled.device_id, enrolled.name, enrolled.log_key) == (b"d" * 16, "alice", b"k")
    assert enrolled.identity == SERVER.verifier


def test_the_secret_of_the_token_is_never_sent_in_the_clear():
    token = EnrolmentToken.generate(SERVER.fingerprint)
    exchange, challenge = begun(token)
    _, sealed = exchange.finish(challenge.message)
    assert token.secret not in exchange.begin + challenge.message + sealed
    assert token.secret not in token.lookup + token.verifier


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_token_survives_copying(secret, fingerprint):
    token = EnrolmentToken(secret, fingerprint)
    assert EnrolmentToken.from_text(f"  {token.to_text()}\n") == token


@given(st.text(max_size=60) | st.text("QF1.abc-_=", max_size=100))
def test_any_other_text_is_no_token(text):
    refused("malformed-message", EnrolmentToken.from_text, text)


@given(st.integers(0, 89))
def test_a_token_cut_short_is_refused(length):
    text = EnrolmentToken(b"s" * 32, b"f" * 32).to_text()
    refused("malformed-message", EnrolmentToken.from_text, text[:length])


def test_another_servers_challenge_is_refused_before_the_secret_is_shown():
    exchange, challenge = begun()
    payload = unverified_payload(challenge.message, purpose="enrol challenge")
    bound_to = digest("enrol begin", exchange.begin)
    impostor = payload | {"identity_key": OTHER.public}
    refused(
        "server-not-authenticated",
        exchange.finish,
        sign1(OTHER, impostor, purpose="enrol challenge", bound_to=bound_to),
    )
    refused("invalid-signature", exchange.finish, sign1(OTHER, payload, purpose="enrol challenge", bound_to=bound_to))
    renamed = payload | {"identity_algorithm": "ML-DSA-65"}
    refused(
        "server-not-authenticated",
        exchange.finish,
        sign1(SERVER, renamed, purpose="enrol challenge", bound_to=bound_to),
    )


def test_the_challenge_to_another_e1_is_refused():
    _, challenge = begun(EnrolmentToken(b"s" * 32, SERVER.fingerprint))
    other = EnrolmentClient(EnrolmentToken(b"s" * 32, SERVER.fingerprint), "alice", KEYS)
    refused("invalid-signature", other.finish, challenge.message)


@pytest.mark.parametrize(
    "changes", [{"ciphertext": bytes(10)}, {"ciphertext": "text"}, {"attempt": b""}, {"expires_at": -1}, {"more": 1}]
)
def test_a_challenge_out_of_form_is_refused(changes):
    exchange, challenge = begun()
    payload = unverified_payload(challenge.message, purpose="enrol challenge") | changes
    bound_to = digest("enrol begin", exchange.begin)
    refused("malformed-message", exchange.finish, sign1(SERVER, payload, purpose="enrol challenge", bound_to=bound_to))


def test_a_swapped_ciphertext_is_noticed_when_the_token_does_not_open():
    exchange, challenge = begun()
    payload = unverified_payload(challenge.message, purpose="enrol challenge")
    payload["ciphertext"] = pqc.kem("FrodoKEM-640-AES").encapsulate(KEYS.kem.public)[1]
    bound_to = digest("enrol begin", exchange.begin)
    _, sealed = exchange.finish(sign1(SERVER, payload, purpose="enrol challenge", bound_to=bound_to))
    refused("enrolment-refused", open_finish, challenge.secret_state, sealed)


@given(st.binary(max_size=100))
def test_garbage_in_place_of_the_sealed_token_is_refused(sealed):
    refused("enrolment-refused", open_finish, STATE, sealed)


STATE = begun()[1].secret_state


def test_a_confirmation_is_bound_to_its_exchange_and_its_server():
    exchange, challenge = begun()
    refused("malformed-message", exchange.complete, b"")
    _, sealed = exchange.finish(challenge.message)
    state = challenge.secret_state
    refused("invalid-signature", exchange.complete, make_confirmation(state, sealed, CONFIRMED, identity=OTHER))
    refused("invalid-signature", exchange.complete, make_confirmation(state, b"x", CONFIRMED, identity=SERVER))
    refused("invalid-signature", exchange.complete, make_confirmation(STATE, sealed, CONFIRMED, identity=SERVER))
    refused("malformed-message", make_confirmation, state, sealed, {}, identity=SERVER)
    bad = CONFIRMED | {"device_id": b""}
    refused("malformed-message", exchange.complete, make_confirmation(state, sealed, bad, identity=SERVER))


@given(st.binary(max_size=200))
def test_garbage_in_place_of_e1_is_refused(message):
    refused("malformed-message", read_begin, message)


def test_no_secret_shows():
    token = EnrolmentToken.generate(SERVER.fingerprint)
    _, challenge = begun(token)
    assert repr(token.secret) not in repr(token)
    assert repr(challenge.secret_state)[2:40] not in repr(challenge)
