"""The verbs of a rekey: the server answers the device's offer, or makes one and takes its answer.

All of them run inside the transaction of the sealed request that asks for them, so a lost answer is
answered again byte for byte and the session is never in between two generations.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from audit.services import record_event
from keyring import envelope
from keyring.services import server_identity
from qflare_protocol import rekey
from qflare_protocol.epochs import EpochChain
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import suite_by_name
from sessions.models import Session, SessionState
from sessions.ready_keys import fresh_key_pair
from sessions.services import keys_of_session, load_chain, store_chain

OFFER_LIFETIME = timedelta(seconds=60)
_COLUMN = "wrapped_offer"


@transaction.atomic
def answer_rekey(session_id: uuid.UUID, offer: bytes, *, now: datetime) -> dict[str, Any]:
    """Answer the device's offer and begin the next generation.

    Raises `Refusal`: "session-expired", "rekey-refused" out of turn, those of `qflare_protocol.rekey.answer_offer`.
    """
    session = _locked_session(session_id)
    context = _context(session, device_offers=True)
    identity = server_identity(session.suite)
    answer, renewal = rekey.answer_offer(
        context, offer, keys_of_session(session, now).verifier, identity, epoch=context.chain.epoch, now=now.timestamp()
    )
    _begin_generation(session, renewal.chain)
    return {"answer": answer, "confirmation": renewal.confirmation}


@transaction.atomic
def offer_rekey(session_id: uuid.UUID, *, now: datetime) -> bytes:
    """Return the server's signed offer for the next generation, which waits a minute for its answer.

    Raises `Refusal`: "session-expired", "rekey-refused" out of turn.
    """
    session = _locked_session(session_id)
    context = _context(session, device_offers=False)
    ephemeral = fresh_key_pair(suite_by_name(session.suite).ephemeral_kem)
    offer = rekey.make_offer(context, ephemeral, server_identity(session.suite), epoch=context.chain.epoch)
    session.wrapped_offer = envelope.wrap(offer.to_bytes(), **session.envelope(_COLUMN))
    session.offer_expires_at = now + OFFER_LIFETIME
    session.save(update_fields=("wrapped_offer", "offer_expires_at"))
    return offer.message


@transaction.atomic
def finish_rekey(session_id: uuid.UUID, answer: bytes, confirmation: bytes, *, now: datetime) -> None:
    """Begin the next generation with the device's answer to the server's offer.

    Raises `Refusal`: "session-expired", "rekey-refused" without a living offer, those of
    `qflare_protocol.rekey.accept_answer`.
    """
    session = _locked_session(session_id)
    context = _context(session, device_offers=False)
    if session.wrapped_offer is None or session.offer_expires_at <= now:
        raise Refusal("rekey-refused", "There is no offer to answer, or it has expired; ask for one.")
    offer = rekey.RekeyOffer.from_bytes(envelope.unwrap(bytes(session.wrapped_offer), **session.envelope(_COLUMN)))
    chain = rekey.accept_answer(
        context, offer, answer, keys_of_session(session, now).verifier, confirmation, now=now.timestamp()
    )
    _begin_generation(session, chain)


def _locked_session(session_id: uuid.UUID) -> Session:
    sessions = Session.objects.select_for_update(of=("self",)).select_related("device")
    session = sessions.filter(id=session_id, state=SessionState.ACTIVE).first()
    if session is None:
        raise Refusal("session-expired", "The session has ended; start a new handshake.")
    return session


def _context(session: Session, *, device_offers: bool) -> rekey.RekeyContext:
    context = rekey.RekeyContext(session.suite, session.id.bytes, load_chain(session))
    if rekey.device_offers(context.generation) != device_offers:
        side = "server's" if device_offers else "device's"
        raise Refusal("rekey-refused", f"It is the {side} turn to offer for generation {context.generation}.")
    return context


def _begin_generation(session: Session, chain: EpochChain) -> None:
    store_chain(session, chain)
    session.generation, session.first_epoch = chain.generation, chain.epoch
    session.requests = session.transfer_bytes = 0
    session.wrapped_offer = session.offer_expires_at = None
    session.save(
        update_fields=(
            "wrapped_secret", "epoch", "past_until", "generation", "first_epoch", "requests", "transfer_bytes",
            "wrapped_offer", "offer_expires_at",
        )
    )  # fmt: skip
    record_event(
        "session.rekeyed",
        actor=session.device.actor,
        payload={"session_id": str(session.id), "device": session.device.name, "generation": chain.generation},
    )
