"""A fresh key exchange inside a session: one KEM secret renews the root (docs/protocol.md, "Rekeying").

One side offers an ephemeral KEM key, the other answers with a ciphertext; the sides take turns, the
device offering for odd generations and the server for even ones. Both structures are signed, so that
even somebody who holds the session's keys and sits on the line cannot take part. The old ratchet key
enters the new root too: the exchange can only add to what protects the session.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, sign1, verify1
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.epochs import GRACE_SECONDS, EpochChain
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, unsigned_field
from qflare_protocol.kdf import equal, expand, extract, mac
from qflare_protocol.pqc import KeyPair
from qflare_protocol.suites import suite_by_name

MAC_BYTES = 64
MAX_REKEY_BYTES = 64 * 1024

_OFFER = frozenset({"generation", "ephemeral_key", "epoch"})
_ANSWER = frozenset({"generation", "ciphertext", "epoch"})


def device_offers(generation: int) -> bool:
    """Say whose turn it is to offer: the device's for odd generations, the server's for even ones."""
    return generation % 2 == 1


@dataclass(frozen=True)
class RekeyContext:
    """What both sides know before: the session, its suite and the chain that is to be renewed."""

    suite: str
    session_id: bytes
    chain: EpochChain = field(repr=False)

    @property
    def generation(self) -> int:
        """The generation that the exchange begins."""
        return self.chain.generation + 1


@dataclass(frozen=True)
class RekeyOffer:
    """An offer one has made and the epoch it states, with the private key its answer needs."""

    message: bytes
    epoch: int
    private: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Serialise for storage under a wrapping key."""
        return encode([self.message, self.epoch, self.private])

    @classmethod
    def from_bytes(cls, data: bytes) -> "RekeyOffer":
        """Read what `to_bytes` wrote."""
        return cls(*decode(data, what="rekey offer"))


def make_offer(context: RekeyContext, ephemeral: KeyPair, signer: Signer, *, epoch: int) -> RekeyOffer:
    """Sign an offer of a fresh ephemeral key of the suite's ephemeral KEM, never used before."""
    payload = {"generation": context.generation, "ephemeral_key": ephemeral.public, "epoch": epoch}
    message = sign1(signer, payload, purpose="rekey offer", bound_to=context.session_id)
    return RekeyOffer(message, epoch, ephemeral.private)


@dataclass(frozen=True)
class Renewal:
    """The renewed chain, with the MAC by which the answering side shows that it has the same root."""

    chain: EpochChain = field(repr=False)
    confirmation: bytes


def answer_offer(
    context: RekeyContext, offer: bytes, peer: Verifier, signer: Signer, *, epoch: int, now: float
) -> tuple[bytes, Renewal]:
    """Return the signed answer to the peer's offer and the renewal.

    `epoch` is the answering side's. Raises `Refusal`: "invalid-signature", "malformed-message", "invalid-key",
    "rekey-refused" for another generation than the next.
    """
    signed = verify1(peer, offer, purpose="rekey offer", bound_to=context.session_id, maximum_bytes=MAX_REKEY_BYTES)
    payload = _checked(context, require_map(signed, _OFFER, "rekey offer"))
    kem = pqc.kem(suite_by_name(context.suite).ephemeral_kem)
    secret, ciphertext = kem.encapsulate(bytes_field(payload, "ephemeral_key"))
    message = {"generation": context.generation, "ciphertext": ciphertext, "epoch": epoch}
    answer = sign1(signer, message, purpose="rekey answer", bound_to=digest("rekey offer", offer))
    first = _first_epoch(context, offered=unsigned_field(payload, "epoch"), answered=epoch)
    return answer, _renew(context, offer, answer, secret, first, now)


def accept_answer(
    context: RekeyContext, offer: RekeyOffer, answer: bytes, peer: Verifier, confirmation: bytes, *, now: float
) -> EpochChain:
    """Return the renewed chain when the peer's answer to one's own offer holds.

    Raises `Refusal`: "invalid-signature", "malformed-message", "rekey-refused" for another generation or
    where the confirmation does not hold.
    """
    bound_to = digest("rekey offer", offer.message)
    signed = verify1(peer, answer, purpose="rekey answer", bound_to=bound_to, maximum_bytes=MAX_REKEY_BYTES)
    payload = _checked(context, require_map(signed, _ANSWER, "rekey answer"))
    kem = pqc.kem(suite_by_name(context.suite).ephemeral_kem)
    secret = kem.decapsulate(offer.private, payload["ciphertext"])
    first = _first_epoch(context, offered=offer.epoch, answered=unsigned_field(payload, "epoch"))
    renewal = _renew(context, offer.message, answer, secret, first, now)
    if not equal(confirmation, renewal.confirmation):
        raise Refusal("rekey-refused", "The confirmation of the rekey does not hold; start a new handshake.")
    return renewal.chain


def _checked(context: RekeyContext, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    if unsigned_field(payload, "generation") != context.generation:
        raise Refusal("rekey-refused", f"The next generation of this session is {context.generation}.")
    return payload


def _first_epoch(context: RekeyContext, *, offered: int, answered: int) -> int:
    """The new generation begins in the epoch that the server stated; the old one may have moved on by one since."""
    epoch = answered if device_offers(context.generation) else offered
    if abs(epoch - context.chain.epoch) > 1:
        raise Refusal("rekey-refused", "The rekey states an epoch that is over or far ahead; start a new handshake.")
    return epoch


def _renew(context: RekeyContext, offer: bytes, answer: bytes, secret: bytes, epoch: int, now: float) -> Renewal:
    number = context.generation.to_bytes(8, "big")
    exchanged = (digest("rekey offer", offer), digest("rekey answer", answer))
    transcript = digest("rekey", context.session_id, number, *exchanged)
    root = extract(transcript, context.chain.ratchet_key, secret)
    old = context.chain
    past = old.without_stale_keys(now=now).kept_past(until=now + GRACE_SECONDS)
    chain = EpochChain.begin(root, epoch, generation=context.generation, past=past)
    confirmation = mac(expand(root, "rekey confirm", length=MAC_BYTES), "rekey confirm", transcript)
    return Renewal(chain.advance(max(epoch, old.epoch), now=now), confirmation)
