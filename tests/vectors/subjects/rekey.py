"""Rekeying inside one session: generation 1, which the device offers, and 2, which the server offers."""

from typing import Any
from unittest.mock import patch

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.epochs import BUCKET_SECONDS, EpochChain
from qflare_protocol.rekey import RekeyContext, RekeyOffer, accept_answer, answer_offer, device_offers, make_offer
from tests.vectors.parties import (
    NOW,
    SESSION_ID,
    SUITE,
    ephemeral_kem,
    new_signer,
    played_again,
    signer_of,
    signer_values,
    verifier_of,
)
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

START = NOW // BUCKET_SECONDS


def make() -> VectorFile:
    """Make the file: the second rekey follows the first, two epochs later."""
    device, server = new_signer(), new_signer()
    first = EpochChain.begin(bytes(range(64)), START)
    one, renewed = _rekeyed("generation 1, the device offers", device, server, first)
    two, _ = _rekeyed("generation 2, the server offers", device, server, renewed.advance(START + 2, now=NOW))
    purpose = "Two rekeys of one session: private keys, offers, answers, confirmations and the keys before and after."
    return VectorFile(purpose, "7.2 Rekeying", [one, two], [*_refusals(one), _late_offer(two)])


def _rekeyed(name: str, device: Signer, server: Signer, chain: EpochChain) -> tuple[Case, EpochChain]:
    context = RekeyContext(SUITE, SESSION_ID, chain)
    offering, answering = (device, server) if device_offers(context.generation) else (server, device)
    offer = make_offer(context, pqc.kem("ML-KEM-1024").generate(), offering, epoch=chain.epoch)
    answer, renewal = answer_offer(
        context, offer.message, offering.verifier, answering, epoch=chain.epoch, now=chain.epoch * BUCKET_SECONDS
    )
    values = {"suite": SUITE, "signature_algorithm": device.algorithm, "session_id": SESSION_ID}
    values |= signer_values("offering", offering) | signer_values("answering", answering)
    values |= {"generation": context.generation, "epoch": chain.epoch, "offer": offer.message, "answer": answer}
    values |= {"offer_private": offer.private, "old_chain_key": chain.chain_key, "old_ratchet_key": chain.ratchet_key}
    case = Case(name, values)
    _add_steps(case)
    return case, renewal.chain


def _add_steps(case: Case) -> None:
    algorithm = case.values["signature_algorithm"]
    signed = {"label": "rekey offer", "algorithm": algorithm, "key": "offering_public", "bound_to": "session_id"}
    case.step("sign1", structure="offer", **signed)
    case.step("digest", "offer_digest", label="rekey offer", inputs=["offer"])
    signed = {"label": "rekey answer", "algorithm": algorithm, "key": "answering_public", "bound_to": "offer_digest"}
    case.step("sign1", structure="answer", **signed)
    case.step("digest", "answer_digest", label="rekey answer", inputs=["answer"])
    kem = ephemeral_kem(case.values)
    case.step("decapsulate", "s", algorithm=kem, private="offer_private", ciphertext="answer.ciphertext")
    inputs = ["session_id", "generation", "offer_digest", "answer_digest"]
    case.step("digest", "T", label="rekey", inputs=inputs)
    case.step("extract", "root", salt="T", inputs=["old_ratchet_key", "s"])
    case.step("expand", "confirm_key", key="root", label="rekey confirm", length=64)
    case.step("mac", "confirmation", key="confirm_key", label="rekey confirm", inputs=["T"])
    case.step("expand", "chain_key", key="root", label="chain")
    case.step("expand", "ratchet_key", key="root", label="ratchet")
    case.step("expand", "traffic_key", key="chain_key", label="epoch traffic", inputs=["epoch"])


def _refusals(case: Case) -> list[Refused]:
    values, other = case.values, new_signer()
    offered = unverified_payload(values["offer"], purpose="rekey offer")
    answered = unverified_payload(values["answer"], purpose="rekey answer")
    offering, answering = signer_of(values, "offering"), signer_of(values, "answering")
    disguised = Signer(other.algorithm, other.private, answering.public)

    def offer(signer: Signer = offering, **changes: Any) -> dict[str, Any]:
        bound_to = values["session_id"]
        return {"offer": sign1(signer, offered | changes, purpose="rekey offer", bound_to=bound_to)}

    def answer(signer: Signer = answering, **changes: Any) -> dict[str, Any]:
        bound_to = values["offer_digest"]
        return {"answer": sign1(signer, answered | changes, purpose="rekey answer", bound_to=bound_to)}

    next_one, late = offered["generation"] + 1, answered["epoch"] - 2
    rows = [
        ("an offer of another key", "answering side", "invalid-signature", {"offering_public": other.public}),
        ("an offer of another session", "answering side", "invalid-signature", {"session_id": bytes(16)}),
        ("an offer of another generation", "answering side", "rekey-refused", offer(generation=next_one)),
        ("an offer of zeros", "answering side", "invalid-key", offer(ephemeral_key=bytes(1568))),
        ("an answer of another key in the right name", "offering side", "invalid-signature", answer(disguised)),
        ("a ciphertext cut short", "offering side", "malformed-message", answer(ciphertext=bytes(1567))),
        ("a wrong confirmation", "offering side", "rekey-refused", {"confirmation": bytes(64)}),
        ("another ratchet key", "offering side", "rekey-refused", {"old_ratchet_key": bytes(32)}),
        ("an answer of the server in an epoch that is over", "offering side", "rekey-refused", answer(epoch=late)),
    ]
    return [Refused(*row, of=case.name) for row in rows]


def _late_offer(case: Case) -> Refused:
    """For an even generation it is the offer in which the server states the epoch."""
    values = case.values
    payload = unverified_payload(values["offer"], purpose="rekey offer") | {"epoch": values["epoch"] - 2}
    signer, bound_to = signer_of(values, "offering"), values["session_id"]
    late = {"offer": sign1(signer, payload, purpose="rekey offer", bound_to=bound_to)}
    name = "an offer of the server in an epoch that is over"
    return Refused(name, "answering side", "rekey-refused", late, of=case.name)


def _context(values: dict[str, Any]) -> RekeyContext:
    old = EpochChain(values["epoch"], values["old_chain_key"], values["old_ratchet_key"], values["generation"] - 1)
    return RekeyContext(values["suite"], values["session_id"], old)


def _assert_renewed(chain: EpochChain, values: dict[str, Any]) -> None:
    assert (chain.generation, chain.epoch) == (values["generation"], values["epoch"])
    assert (chain.chain_key, chain.ratchet_key) == (values["chain_key"], values["ratchet_key"])
    assert chain.derive_key("traffic") == values["traffic_key"]


def _offering_side(values: dict[str, Any]) -> None:
    offer = RekeyOffer(values["offer"], values["epoch"], values["offer_private"])
    chain = accept_answer(
        _context(values), offer, values["answer"], verifier_of(values, "answering"), values["confirmation"],
        now=values["epoch"] * BUCKET_SECONDS,
    )  # fmt: skip
    _assert_renewed(chain, values)


def _answering_side(values: dict[str, Any]) -> None:
    public = unverified_payload(values["offer"], purpose="rekey offer")["ephemeral_key"]
    stored = unverified_payload(values["answer"], purpose="rekey answer")
    again = played_again({public: (values["s"], stored["ciphertext"])})
    with again, patch("qflare_protocol.rekey.sign1", return_value=values["answer"]) as signing:
        _, renewal = answer_offer(
            _context(values), values["offer"], verifier_of(values, "offering"), signer_of(values, "answering"),
            epoch=values["epoch"], now=values["epoch"] * BUCKET_SECONDS,
        )  # fmt: skip
    assert signing.call_args.args[1] == stored
    assert renewal.confirmation == values["confirmation"]
    _assert_renewed(renewal.chain, values)


RECEIVERS: dict[str, Receiver] = {"answering side": _answering_side, "offering side": _offering_side}
