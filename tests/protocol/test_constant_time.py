"""Confirmations and proofs are believed on the word of the constant-time comparison and of nothing else.

Where that comparison is made to say no, what is right is refused too; where it is made to say yes, what
is wrong passes. So no other comparison of the same bytes stands beside it.
"""

import hmac

import pytest

from qflare_protocol import handshake, kdf, key_rotation, rekey
from qflare_protocol.encoding import encode
from qflare_protocol.epochs import EpochChain
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import mac
from tests.protocol.test_handshake import client, serve
from tests.protocol.test_rekey import DEVICE, FIRST, KEM, NOW, SERVER, SESSION, START, SUITE


def server_confirms(wrong):
    device = client()
    answer, pending = serve(device.request)
    _, ciphertext, confirmation = device.respond(answer)
    handshake.accept_response(pending, ciphertext, wrong or confirmation)


def device_establishes(wrong):
    device = client()
    answer, pending = serve(device.request)
    final, _ = handshake.accept_response(pending, *device.respond(answer)[1:])
    device.establish(wrong or final)


def rekey_is_confirmed(wrong):
    context = rekey.RekeyContext(SUITE, SESSION, FIRST)
    offer = rekey.make_offer(context, KEM.generate(), DEVICE, epoch=START)
    answer, renewal = rekey.answer_offer(context, offer.message, DEVICE.verifier, SERVER, epoch=START, now=NOW)
    chain = rekey.accept_answer(context, offer, answer, SERVER.verifier, wrong or renewal.confirmation, now=NOW)
    assert isinstance(chain, EpochChain)


def rotation_is_proved(wrong):
    transcript, key = bytes(64), bytes(range(64))
    confirmation = wrong or mac(key, "key rotation confirm", transcript)
    key_rotation.check_rotation_response(encode([transcript, key]), confirmation)


COMPARISONS = {
    "M3": (handshake, server_confirms),
    "rekey": (rekey, rekey_is_confirmed),
    "K3": (key_rotation, rotation_is_proved),
}


@pytest.mark.parametrize(("module", "check"), COMPARISONS.values(), ids=COMPARISONS)
def test_the_constant_time_comparison_alone_decides(monkeypatch, module, check):
    check(None)
    with pytest.raises(Refusal):
        check(bytes(64))
    monkeypatch.setattr(module, "equal", lambda *_: True)
    check(bytes(64))
    monkeypatch.setattr(module, "equal", lambda *_: False)
    with pytest.raises(Refusal):
        check(None)


def test_the_devices_comparison_of_m4_decides_too(monkeypatch):
    """The same function serves both sides of the handshake, so the second use is told apart by its turn."""
    device_establishes(None)
    with pytest.raises(Refusal):
        device_establishes(bytes(64))
    turns = iter([True, False])
    monkeypatch.setattr(handshake, "equal", lambda *_: next(turns))
    with pytest.raises(Refusal, match="server-not-authenticated"):
        device_establishes(None)


def test_the_comparison_is_that_of_hmac(monkeypatch):
    seen = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *sides: bool(seen.append(sides)) or True)
    assert kdf.equal(b"one", b"two")
    assert seen == [(b"one", b"two")]
