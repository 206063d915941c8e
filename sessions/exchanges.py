"""Sealed requests on the server: open one, accept its number once, remember its answer.

A request is opened before any transaction, because its body streams in; it is accepted, served and
answered in one transaction, so that a crash between them leaves nothing and a retry is served anew.
"""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import IO

from devices.models import Device
from devices.prepared_statements import database_value, quoted, writing_cursor
from qflare_protocol.epochs import EpochChain, bucket_of, receive_epoch
from qflare_protocol.errors import Refusal
from qflare_protocol.sealed_request import (
    SEQUENCE_WINDOW,
    Authorization,
    MessageNumber,
    RequestOpener,
    SealedAnswer,
    Target,
    seal_answer,
)
from qflare_protocol.server_time import request_reference
from sessions.acceptance import take_number
from sessions.models import Exchange, Session
from sessions.server_time import with_server_time
from sessions.services import load_chain, session_limits, store_chain
from sessions.session_lookup import live_session

PIECE_BYTES = 1 << 20
SPOOL_BYTES = 1 << 20
FORGOTTEN_EVERY = 16


@dataclass(frozen=True)
class OpenedRequest:
    """A request that opened under its session: who sent it and what it said."""

    session: Session = field(repr=False)
    authorization: Authorization
    target: Target
    traffic_key: bytes = field(repr=False)
    request_digest: bytes
    body: IO[bytes] = field(repr=False)

    @property
    def device(self) -> Device:
        """The device that sent it."""
        return self.session.device

    @property
    def session_id(self) -> uuid.UUID:
        """The session under which the request opened."""
        return uuid.UUID(bytes=self.authorization.number.session_id)

    def seal(self, status: int, content_type: str, body: bytes) -> SealedAnswer:
        """Seal an answer to this request."""
        return seal_answer(self.traffic_key, self.authorization, status, content_type, body)


def open_request(authorization: Authorization, target: Target, stream: IO[bytes], *, now: datetime) -> OpenedRequest:
    """Open a sealed request into a spooled file; changes nothing.

    Raises `Refusal`: "session-expired", "epoch-expired" with the signed server time,
    "request-not-authentic", "malformed-message" for a body shorter than stated.
    """
    number = authorization.number
    session = _live_session(uuid.UUID(bytes=number.session_id), now)
    try:
        _, traffic_key = receive_epoch(load_chain(session), number.epoch, number.generation, now=now.timestamp())
    except Refusal as refusal:
        if refusal.code == "epoch-expired":  # as of a recorded request that somebody sends again
            refusal.with_event("request.refused", actor="stranger", device=session.device.name, reason=refusal.code)
        reference = request_reference(number.session_id, number.epoch, number.sequence)
        raise with_server_time(refusal, session.suite, reference, now=now) from None
    opener = RequestOpener(traffic_key, authorization, target)
    try:
        body = _opened_body(opener, stream, target.length)
    except Refusal as refusal:
        if refusal.code == "request-not-authentic":
            refusal.with_event("request.refused", actor="stranger", device=session.device.name, reason=refusal.code)
        raise
    return OpenedRequest(session, authorization, target, traffic_key, opener.request_digest, body)


def _opened_body(opener: RequestOpener, stream: IO[bytes], length: int) -> IO[bytes]:
    with ExitStack() as closing:
        body = closing.enter_context(tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))
        for piece in _pieces(stream, length):
            body.write(opener.update(piece))
        opener.finish()
        body.seek(0)
        closing.pop_all()
    return body


def _live_session(session_id: uuid.UUID, now: datetime) -> Session:
    session = live_session(session_id, now)
    if session is None:
        raise Refusal("session-expired", "The session is unknown or has ended; start a new handshake.")
    return session


def _pieces(stream: IO[bytes], length: int) -> Iterator[bytes]:
    remaining = length
    while remaining:
        piece = stream.read(min(PIECE_BYTES, remaining))
        if not piece:
            raise Refusal("malformed-message", "The body is shorter than its Content-Length.")
        remaining -= len(piece)
        yield piece


def accept_request(
    opened: OpenedRequest, *, now: datetime, confine: Callable[[uuid.UUID], None], renews_keys: bool = False
) -> SealedAnswer | None:
    """Accept the request's sequence number, inside the caller's transaction, which holds the session's row then.

    From here on the transaction is confined to the device's rows, by `confine` where no statement of ours does it.
    A request that `renews_keys` is taken for one bucket more and counts for nothing: it is the way out of
    a used-up allowance.

    Returns the stored answer when this very request was answered before, else None: serve it, then
    `store_answer`. Raises `Refusal`: "session-expired", "session-limit-reached", "sequence-reused",
    "sequence-too-old".
    """
    number = opened.authorization.number
    usual = not renews_keys and _chain_stays(opened, now)
    if usual and take_number(opened.session, number, opened.target.length, limits=session_limits(), now=now):
        _forget_answers(opened.session_id, opened.session.highest_sequence, number.sequence)
        return None
    confine(opened.device.id)
    return _accept_unusual(opened, now, renews_keys=renews_keys)


def _chain_stays(opened: OpenedRequest, now: datetime) -> bool:
    """Say whether the chain with which the request was opened has nothing to move on to, nor to forget."""
    chain, number = load_chain(opened.session), opened.authorization.number
    return chain.advance(_epoch_of(chain, number, now), now=now.timestamp()) == chain


def _epoch_of(chain: EpochChain, number: MessageNumber, now: datetime) -> int:
    # The message's epoch was judged when its header came: a long body must not make it late.
    return max(chain.epoch, bucket_of(now.timestamp()), number.epoch)


def _accept_unusual(opened: OpenedRequest, now: datetime, *, renews_keys: bool) -> SealedAnswer | None:
    """Lock the session's row and judge by it: retries, numbers out of order, a chain that moves on, a race."""
    session = Session.objects.live(now).select_for_update(of=("self",)).filter(id=opened.session_id).first()
    if session is None:
        raise Refusal("session-expired", "The session has ended; start a new handshake.")
    number, highest = opened.authorization.number, session.highest_sequence
    if number.sequence + SEQUENCE_WINDOW <= highest:
        raise _replayed(Refusal("sequence-too-old", "The sequence number is behind the window of 64."), opened)
    earlier = session.exchanges.filter(sequence=number.sequence).first()
    if earlier is not None:
        return _answer_of(earlier, opened)
    _use_allowance(session, opened, renews_keys=renews_keys)
    chain = load_chain(session)
    store_chain(session, chain.advance(_epoch_of(chain, number, now), now=now.timestamp()))
    session.highest_sequence = max(highest, number.sequence)
    session.save(
        update_fields=("wrapped_secret", "epoch", "past_until", "highest_sequence", "requests", "transfer_bytes")
    )
    _forget_answers(session.id, highest, session.highest_sequence)
    return None


def _forget_answers(session_id: uuid.UUID, before: int, highest: int) -> None:
    """Delete answers behind the window, once in `FORGOTTEN_EVERY` numbers: a retry from there is refused anyway."""
    if highest > SEQUENCE_WINDOW and highest // FORGOTTEN_EVERY > before // FORGOTTEN_EVERY:
        Exchange.objects.filter(session_id=session_id, sequence__lte=highest - SEQUENCE_WINDOW).delete()


def _answer_of(earlier: Exchange, opened: OpenedRequest) -> SealedAnswer:
    if bytes(earlier.request_digest) != opened.request_digest:
        raise _replayed(Refusal("sequence-reused", "The sequence number was used for another request."), opened)
    return earlier.stored_answer()


def _replayed(refusal: Refusal, opened: OpenedRequest) -> Refusal:
    device = opened.device
    return refusal.with_event("request.refused", actor=device.actor, device=device.name, reason=refusal.code)


def _use_allowance(session: Session, opened: OpenedRequest, *, renews_keys: bool) -> None:
    limits = session_limits()
    epochs = opened.authorization.number.epoch - session.first_epoch + 1
    if not renews_keys:
        session.requests += 1
        session.transfer_bytes += opened.target.length
    over = (
        session.requests > limits.requests
        or session.transfer_bytes > limits.transfer_bytes
        or epochs > limits.epochs
    )  # fmt: skip
    if over and not (renews_keys and epochs <= limits.epochs + 1):
        raise Refusal(
            "session-limit-reached", "The session's key allowance is used up; rekey or start a new handshake."
        )


def store_answer(opened: OpenedRequest, answer: SealedAnswer) -> None:
    """Keep the request's number and its sealed answer for a retry, inside the transaction that accepted it.

    That transaction holds the session's row, so nobody else has taken the number meanwhile.
    """
    values = {
        "session": opened.session_id,
        "sequence": opened.authorization.number.sequence,
        "request_digest": opened.request_digest,
        "status": answer.status,
        "content_type": answer.content_type,
        "salt": answer.salt,
        "answer": answer.body,
    }
    fields = [(Exchange._meta.get_field(name), value) for name, value in values.items()]
    with writing_cursor() as cursor:
        cursor.execute(_insertion(tuple(values)), [database_value(field, value) for field, value in fields])


@cache
def _insertion(names: tuple[str, ...]) -> str:
    columns = ", ".join(quoted(str(Exchange._meta.get_field(name).column)) for name in names)
    places = ", ".join(["%s"] * len(names))
    return f"INSERT INTO {quoted(Exchange._meta.db_table)} ({columns}) VALUES ({places})"  # noqa: S608 - our own names
