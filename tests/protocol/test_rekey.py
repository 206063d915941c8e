"""Rekeying: what a thief has before it is worth nothing after it, and nobody on the line takes part."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.encoding import digest
from qflare_protocol.epochs import BUCKET_SECONDS, GRACE_SECONDS, EpochChain
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import extract
from qflare_protocol.rekey import (
    RekeyContext,
    RekeyOffer,
    accept_answer,
    answer_offer,
    device_offers,
    make_offer,
)

KEM = pqc.kem("ML-KEM-1024")
SUITE, SESSION, START = "QF1-K1024", b"s" * 16, 1000
NOW = START * BUCKET_SECONDS + 100.0


def new_signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


DEVICE, SERVER, MALLORY = new_signer(), new_signer(), new_signer()
FIRST = EpochChain.begin(b"R" * 64, START)


def sides(generation):
    """Return who offers and who answers for a generation."""
    return (DEVICE, SERVER) if device_offers(generation) else (SERVER, DEVICE)


def rekeyed(device, server, *, now=NOW):
    """Return both sides' chains after one rekey."""
    offering, answering = (device, server) if device_offers(device.generation + 1) else (server, device)
    offerer, answerer = sides(device.generation + 1)
    offer_context, answer_context = RekeyContext(SUITE, SESSION, offering), RekeyContext(SUITE, SESSION, answering)
    offer = make_offer(offer_context, KEM.generate(), offerer, epoch=offering.epoch)
    answer, renewal = answer_offer(
        answer_context, offer.message, offerer.verifier, answerer, epoch=answering.epoch, now=now
    )
    kept = RekeyOffer.from_bytes(offer.to_bytes())
    accepted = accept_answer(offer_context, kept, answer, answerer.verifier, renewal.confirmation, now=now)
    chains = (accepted, renewal.chain)
    return chains if device_offers(device.generation + 1) else chains[::-1]


def refused(code, call, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)
    assert caught.value.code == code


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 1)), min_size=1, max_size=6))
def test_both_sides_agree_through_any_number_of_rekeys_and_epochs(steps):
    """The server's clock leads; the device may be one bucket ahead or behind when it asks."""
    device = server = FIRST
    for epochs, skew in steps:
        server = server.advance(server.epoch + epochs, now=NOW)
        device = device.advance(max(device.epoch, server.epoch + min(skew, 0)), now=NOW)
        device, server = rekeyed(device, server)
        common = max(device.epoch, server.epoch)
        one, two = device.advance(common, now=NOW), server.advance(common, now=NOW)
        assert (one.chain_key, one.ratchet_key, one.generation) == (two.chain_key, two.ratchet_key, two.generation)


def test_the_sides_take_turns():
    assert [device_offers(generation) for generation in (1, 2, 3, 4)] == [True, False, True, False]


def test_a_stolen_chain_heals_with_the_next_rekey():
    """Mallory has the whole state before and every message of the rekey; the KEM secret is what she lacks."""
    stolen = FIRST
    context = RekeyContext(SUITE, SESSION, FIRST)
    offer = make_offer(context, KEM.generate(), DEVICE, epoch=START)
    answer, renewal = answer_offer(context, offer.message, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    exchanged = (digest("rekey offer", offer.message), digest("rekey answer", answer))
    transcript = digest("rekey", SESSION, (1).to_bytes(8, "big"), *exchanged)
    recorded = unverified_payload(answer, purpose="rekey answer")["ciphertext"]
    guesses = [bytes(32), recorded[:32], KEM.decapsulate(KEM.generate().private, recorded)]
    derived = [
        EpochChain.begin(extract(transcript, stolen.ratchet_key, guess), START, generation=1) for guess in guesses
    ]
    assert renewal.chain.chain_key not in [chain.chain_key for chain in derived]
    assert renewal.chain.chain_key not in stolen.to_bytes()
    reached = [stolen.advance(START + step, now=NOW).chain_key for step in range(5)]
    assert renewal.chain.chain_key not in reached


def test_a_fresh_secret_alone_does_not_give_the_new_root_either():
    """Should the KEM be broken one day, the old ratchet key still protects what follows."""
    other = replace(FIRST, ratchet_key=b"o" * 32)
    context = RekeyContext(SUITE, SESSION, FIRST)
    offer = make_offer(context, KEM.generate(), DEVICE, epoch=START)
    answer, renewal = answer_offer(context, offer.message, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    without = RekeyContext(SUITE, SESSION, other)
    refused("rekey-refused", accept_answer, without, offer, answer, SERVER.verifier, renewal.confirmation, now=NOW)


@pytest.mark.parametrize("generation", [0, 1])
def test_a_thief_of_the_chain_cannot_take_part_in_the_rekey(generation):
    chain = replace(FIRST, generation=generation)
    context = RekeyContext(SUITE, SESSION, chain)
    offerer, answerer = sides(generation + 1)
    forged = make_offer(context, KEM.generate(), MALLORY, epoch=START)
    refused(
        "invalid-signature", answer_offer, context, forged.message, offerer.verifier, answerer, epoch=START, now=NOW
    )
    offer = make_offer(context, KEM.generate(), offerer, epoch=START)
    answer, renewal = answer_offer(context, offer.message, offerer.verifier, MALLORY, epoch=START, now=NOW)
    refused(
        "invalid-signature", accept_answer, context, offer, answer, answerer.verifier, renewal.confirmation, now=NOW
    )


def test_an_offer_belongs_to_its_session_and_generation():
    context = RekeyContext(SUITE, SESSION, FIRST)
    offer = make_offer(context, KEM.generate(), DEVICE, epoch=START).message
    elsewhere = RekeyContext(SUITE, b"t" * 16, FIRST)
    refused("invalid-signature", answer_offer, elsewhere, offer, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    later = RekeyContext(SUITE, SESSION, replace(FIRST, generation=2))
    refused("rekey-refused", answer_offer, later, offer, DEVICE.verifier, SERVER, epoch=START, now=NOW)


def test_an_answer_belongs_to_its_offer():
    context = RekeyContext(SUITE, SESSION, FIRST)
    one, two = (make_offer(context, KEM.generate(), DEVICE, epoch=START) for _ in range(2))
    answer, renewal = answer_offer(context, one.message, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    refused("invalid-signature", accept_answer, context, two, answer, SERVER.verifier, renewal.confirmation, now=NOW)


def test_a_wrong_confirmation_or_ciphertext_renews_nothing():
    context = RekeyContext(SUITE, SESSION, FIRST)
    offer = make_offer(context, KEM.generate(), DEVICE, epoch=START)
    answer, renewal = answer_offer(context, offer.message, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    for wrong in (bytes(64), renewal.confirmation[:-1], renewal.confirmation[::-1]):
        refused("rekey-refused", accept_answer, context, offer, answer, SERVER.verifier, wrong, now=NOW)
    payload = unverified_payload(answer, purpose="rekey answer")
    bound_to = digest("rekey offer", offer.message)
    _, other = KEM.encapsulate(KEM.generate().public)
    for ciphertext, code in ((other, "rekey-refused"), (other[:-1], "malformed-message"), (None, "malformed-message")):
        forged = sign1(SERVER, payload | {"ciphertext": ciphertext}, purpose="rekey answer", bound_to=bound_to)
        refused(code, accept_answer, context, offer, forged, SERVER.verifier, renewal.confirmation, now=NOW)


@pytest.mark.parametrize("key", [bytes(1568), b"", b"k" * 1567, b"\xff" * 1568])
def test_a_bad_ephemeral_key_is_refused(key):
    context = RekeyContext(SUITE, SESSION, FIRST)
    offer = sign1(
        DEVICE, {"generation": 1, "ephemeral_key": key, "epoch": START}, purpose="rekey offer", bound_to=SESSION
    )
    refused("invalid-key", answer_offer, context, offer, DEVICE.verifier, SERVER, epoch=START, now=NOW)


def test_an_epoch_that_is_over_is_refused():
    context = RekeyContext(SUITE, SESSION, FIRST.advance(START + 3, now=NOW))
    offer = make_offer(context, KEM.generate(), DEVICE, epoch=START)
    refused("rekey-refused", answer_offer, context, offer.message, DEVICE.verifier, SERVER, epoch=START + 1, now=NOW)


def test_an_epoch_far_ahead_is_refused():
    """A chain that began there would not move for as long as the clock has not come so far."""
    context, key = RekeyContext(SUITE, SESSION, FIRST), KEM.generate()
    offer = make_offer(context, key, DEVICE, epoch=START)
    refused("rekey-refused", answer_offer, context, offer.message, DEVICE.verifier, SERVER, epoch=START + 2, now=NOW)
    answer_offer(context, offer.message, DEVICE.verifier, SERVER, epoch=START + 1, now=NOW)


def test_the_old_generation_is_honoured_for_thirty_seconds():
    device, _ = rekeyed(FIRST, FIRST)
    old = FIRST.derive_key("traffic")
    assert device.traffic_key(START, 0, now=NOW + GRACE_SECONDS - 0.1) == old
    refused("epoch-expired", device.traffic_key, START, 0, now=NOW + GRACE_SECONDS)
    assert old not in device.without_stale_keys(now=NOW + GRACE_SECONDS).to_bytes()
    assert FIRST.ratchet_key not in device.to_bytes()
    assert FIRST.chain_key not in device.to_bytes()


def test_no_secret_shows():
    context = RekeyContext(SUITE, SESSION, FIRST)
    offer = make_offer(context, KEM.generate(), DEVICE, epoch=START)
    _, renewal = answer_offer(context, offer.message, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    shown = repr(context) + repr(offer) + repr(renewal)
    for secret in (FIRST.chain_key, FIRST.ratchet_key, offer.private, renewal.chain.chain_key):
        assert repr(secret)[2:20] not in shown
