"""The device's session: opens itself, renews itself, witnesses the log, sends sealed requests."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from edge_client.device_state import DeviceStateFile
from edge_client.http import CBOR, Http, ServerUnreachable, answered_map, raise_for_problem
from edge_client.key_store import DeviceIdentity
from qflare_protocol.checkpoint import verify_checkpoint
from qflare_protocol.cose import Verifier
from qflare_protocol.encoding import encode
from qflare_protocol.epochs import EpochChain, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field
from qflare_protocol.handshake import ClientHandshake, EstablishedSession, SeenCheckpoint, read_server_time
from qflare_protocol.merkle import verify_consistency
from qflare_protocol.sealed_request import (
    CONTENT_TYPE_HEADER,
    SALT_HEADER,
    SEALED_MEDIA_TYPE,
    SealedAnswer,
    Target,
    open_answer,
    seal_request,
)

log = structlog.get_logger(__name__)

RENEW = frozenset(
    {"session-expired", "session-limit-reached", "epoch-expired", "request-not-authentic", "sequence-too-old"}
)
LOG_SIGNATURE_ALGORITHM = "ML-DSA-44"
RESENDS = 1
SILENT_LOG_SECONDS = 600


@dataclass
class _OpenSession:
    terms: EstablishedSession
    chain: EpochChain
    opened_at: float
    sequence: int = 0
    transfer_bytes: int = 0


class DeviceSession:
    """Sealed requests of one device; a handshake happens when there is no session or it is used up."""

    def __init__(
        self, http: Http, identity: DeviceIdentity, memory: DeviceStateFile, clock: Callable[[], float] = time.time
    ) -> None:
        self._http, self._identity, self._memory, self._clock = http, identity, memory, clock
        self._open: _OpenSession | None = None
        self._clock_offset = 0.0

    def post(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        """Send a sealed CBOR map and return the answered one. Raises `Refusal`, `ServerUnreachable`."""
        return self.request("POST", path, encode(message), CBOR)

    def get(self, path: str) -> dict[str, Any]:
        """Send a sealed GET and return the answered map. Raises `Refusal`, `ServerUnreachable`."""
        return self.request("GET", path, b"", "")

    def request(self, method: str, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        """Send one sealed request; a session that ended meanwhile is renewed once.

        Raises `Refusal` for what the server refuses, `ServerUnreachable` for what may pass, such as an
        unsealed answer that calls the new session used up too: anybody on the way can send that.
        """
        for renewed in (False, True):
            session = self._current(len(body))
            try:
                return self._exchange(session, method, path, body, content_type)
            except Refusal as refusal:
                if renewed and isinstance(refusal, _UnsealedRefusal):
                    detail = f"an unsealed answer said {refusal.code} again, right after a handshake"
                    raise ServerUnreachable(detail) from refusal
                if renewed or refusal.code not in RENEW:
                    raise
                log.info("session_renewed", because=refusal.code)
                self._open = None
        raise AssertionError("unreachable: the second pass returns or raises")

    def close(self) -> None:
        """End the session on both sides and forget its keys; one that is over there already is as good as closed."""
        if self._open is None:
            return
        session, self._open = self._open, None
        try:
            self._exchange(session, "POST", "/api/session/close", encode({}), CBOR)
        except Refusal as refusal:
            if refusal.code not in RENEW:
                raise
            log.info("session_was_over", because=refusal.code)

    def forget(self) -> None:
        """Forget the session's keys without telling the server."""
        self._open = None

    def server_time(self) -> float:
        """Return the server's Unix time as this session knows it: the device's clock may be wrong."""
        return self._clock() + self._clock_offset

    def _current(self, body_bytes: int) -> _OpenSession:
        session = self._open
        if session is None or self._used_up(session, body_bytes):
            session = self._open = self._handshake()
        epoch = max(session.chain.epoch, bucket_of(self.server_time()))
        session.chain = session.chain.advance(epoch, now=self.server_time())
        return session

    def _used_up(self, session: _OpenSession, body_bytes: int) -> bool:
        limits, now = session.terms.limits, self.server_time()
        return (
            session.sequence >= limits.requests
            or session.transfer_bytes + body_bytes > limits.transfer_bytes
            or bucket_of(now) - bucket_of(session.opened_at) >= limits.epochs
            or now - session.opened_at >= limits.lifetime_seconds
        )

    def _exchange(
        self, session: _OpenSession, method: str, path: str, body: bytes, content_type: str
    ) -> dict[str, Any]:
        session.sequence += 1
        session.transfer_bytes += len(body)
        epoch = session.chain.epoch
        key = session.chain.traffic_key(epoch, now=self.server_time())
        target = Target(method, path, content_type, len(body))
        authorization, sealed = seal_request(key, session.terms.session_id, epoch, session.sequence, target, body)
        headers = {"Authorization": authorization.to_header(), "Content-Length": str(len(sealed))}
        if body:
            headers |= {"Content-Type": SEALED_MEDIA_TYPE}
        if content_type:
            headers |= {CONTENT_TYPE_HEADER: content_type}
        response = self._send_same(method, path, sealed, headers)
        if response.headers.get("Content-Type") != SEALED_MEDIA_TYPE:
            _raise_for_unsealed(response)
        answer = _sealed_answer(response.status_code, response.headers, response.content)
        plain = open_answer(key, authorization, answer)
        raise_for_problem(answer.status, answer.content_type, plain, response.headers)
        return answered_map(plain)

    def _send_same(self, method: str, path: str, sealed: bytes, headers: dict[str, str]) -> httpx.Response:
        """Send; when the answer is lost, send the very same bytes again: the server answers as before."""
        for _ in range(RESENDS):
            try:
                return self._http.send(method, path, sealed, headers)
            except ServerUnreachable as failure:
                log.info("request_resent", path=path, reason=str(failure))
        return self._http.send(method, path, sealed, headers)

    def _handshake(self) -> _OpenSession:
        try:
            return self._shake_hands()
        except _WrongClock as wrong:
            self._clock_offset = wrong.server_time - self._clock()
            log.warning("clock_corrected", offset_seconds=round(self._clock_offset))
        try:
            return self._shake_hands()
        except _WrongClock as wrong:
            raise wrong.refusal from wrong

    def _shake_hands(self) -> _OpenSession:
        identity, now = self._identity, self.server_time()
        seen = self._memory.state.checkpoint
        handshake = ClientHandshake(identity.device_id, identity.keys, identity.identity, now=now, checkpoint=seen)
        try:
            answer = self._http.post_cbor("/api/challenge", {"request": handshake.request})
        except Refusal as refusal:
            if refusal.code == "clock-skew":
                raise self._wrong_clock(refusal, handshake.request) from refusal
            raise
        session_id, ciphertext, confirmation = handshake.respond(bytes_field(answer, "answer"))
        message = {"session_id": session_id, "ciphertext": ciphertext, "confirmation": confirmation}
        confirmed = self._http.post_cbor("/api/authenticate", message)
        terms = handshake.establish(bytes_field(confirmed, "confirmation"))
        self._clock_offset += terms.clock_offset
        self._witness(terms, seen)
        log.info("session_opened", session=terms.session_id.hex()[:8], suite=terms.suite)
        return _OpenSession(terms, terms.chain, self.server_time())

    def _wrong_clock(self, refusal: Refusal, message: bytes) -> "_WrongClock | Refusal":
        signed = refusal.extensions.get("signed_server_time")
        if not isinstance(signed, str):
            return refusal
        try:
            decoded = base64.urlsafe_b64decode(signed)
        except ValueError:
            return refusal
        return _WrongClock(read_server_time(self._identity.identity, decoded, bound_to=message), refusal)

    def _witness(self, terms: EstablishedSession, seen: SeenCheckpoint | None) -> None:
        """Demand that the server's log extends the one seen last. Raises `Refusal("log-inconsistent")`."""
        if terms.checkpoint is None:
            if seen is not None:
                raise Refusal("log-inconsistent", "The server shows no checkpoint, but this device has seen one.")
            return
        verifier = Verifier(LOG_SIGNATURE_ALGORITHM, self._identity.log_key)
        signed = verify_checkpoint(terms.checkpoint, verifier, self._identity.log_origin)
        current, age_seconds = signed.checkpoint, self.server_time() - signed.timestamp
        if age_seconds > SILENT_LOG_SECONDS:
            log.warning(
                "log_silent", age_seconds=round(age_seconds), note="the server's log has not been signed lately"
            )
        if seen is not None:
            try:
                verify_consistency(seen.size, seen.root, current.size, current.root, terms.consistency_proof)
            except Refusal as refusal:
                detail = f"The server's log does not extend the {seen.size} entries this device has seen."
                raise Refusal("log-inconsistent", detail) from refusal
        self._memory.remember(checkpoint=SeenCheckpoint(current.size, current.root))


class _WrongClock(Exception):  # noqa: N818 - internal turn of the handshake, not an error
    def __init__(self, server_time: float, refusal: Refusal) -> None:
        super().__init__("The device clock is wrong.")
        self.server_time, self.refusal = server_time, refusal


class _UnsealedRefusal(Refusal):
    """A refusal, with a code of `RENEW`, that the session's key does not vouch for."""


def _raise_for_unsealed(response: httpx.Response) -> None:
    """An answer outside the session is nobody's word: it may make us shake hands again, and nothing else."""
    content_type = response.headers.get("Content-Type", "")
    try:
        raise_for_problem(response.status_code, content_type, response.content, response.headers)
    except Refusal as refusal:
        if refusal.code in RENEW:
            raise _UnsealedRefusal(refusal.code, refusal.detail) from refusal
        raise ServerUnreachable(f"an unsealed answer said {refusal.code}: {refusal.detail}") from refusal
    raise ServerUnreachable("an answer came unsealed")


def _sealed_answer(status: int, headers: Any, body: bytes) -> SealedAnswer:
    try:
        salt = bytes.fromhex(headers.get(SALT_HEADER, ""))
    except ValueError as error:
        raise Refusal("answer-not-authentic", "The sealed answer has no salt.") from error
    return SealedAnswer(status, headers.get(CONTENT_TYPE_HEADER, ""), salt, body)
