"""The device's session: opens itself, renews its keys, sends sealed requests."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from edge_client.device_state import DeviceStateFile
from edge_client.handshaking import Handshaker, UnvouchedRefusal
from edge_client.http import CBOR, Http, ServerUnreachable, answered_map, raise_for_problem
from edge_client.identity_keeper import IdentityKeeper
from edge_client.key_renewal import rekey_session, rotate_keys
from edge_client.key_store import DeviceIdentity
from edge_client.measured import RETRIES
from edge_client.qkd import OFF, QkdSettings
from qflare_protocol.device_keys import DeviceKeys
from qflare_protocol.encoding import encode
from qflare_protocol.epochs import EpochChain, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.handshake import EstablishedSession
from qflare_protocol.rekey import RekeyContext
from qflare_protocol.sealed_request import (
    CONTENT_TYPE_HEADER,
    SALT_HEADER,
    SEALED_MEDIA_TYPE,
    MessageNumber,
    SealedAnswer,
    Target,
    new_salt,
    open_answer,
    seal_request,
)

log = structlog.get_logger(__name__)

RENEW = frozenset(
    {
        "session-expired", "session-limit-reached", "epoch-expired", "request-not-authentic", "sequence-too-old",
        "answer-not-authentic",
    }
)  # fmt: skip
RESENDS = 1


@dataclass
class OpenSession:
    """A session as the device holds it; `requests`, `transfer_bytes` and `first_epoch` are the generation's."""

    terms: EstablishedSession
    keys: DeviceKeys
    chain: EpochChain
    opened_at: float
    first_epoch: int
    sequence: int = 0
    requests: int = 0
    transfer_bytes: int = 0

    def begin_generation(self, chain: EpochChain) -> None:
        """Go on under a renewed chain, with a fresh allowance."""
        self.chain, self.first_epoch = chain, chain.epoch
        self.requests = self.transfer_bytes = 0


class DeviceSession:
    """Sealed requests of one device; a handshake happens when there is no session, a rekey when it is used up."""

    def __init__(
        self,
        http: Http,
        keeper: IdentityKeeper,
        memory: DeviceStateFile,
        clock: Callable[[], float] = time.time,
        qkd: QkdSettings = OFF,
    ) -> None:
        self._http, self._keeper = http, keeper
        self._handshaker = Handshaker(http, keeper, memory, clock, qkd)
        self._open: OpenSession | None = None

    @property
    def identity(self) -> DeviceIdentity:
        """Who the device is now: rotations change its keys and the server's."""
        return self._keeper.identity

    def post(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        """Send a sealed CBOR map and return the answered one. Raises `Refusal`, `ServerUnreachable`."""
        return self.request("POST", path, encode(message), CBOR)

    def get(self, path: str) -> dict[str, Any]:
        """Send a sealed GET and return the answered map. Raises `Refusal`, `ServerUnreachable`."""
        return self.request("GET", path, b"", "")

    def put_at_store(self, address: str, piece: bytes) -> None:
        """Put a piece, which is sealed to the enclave, at the blob store. Raises `ServerUnreachable`, once."""
        self._http.put_at_store(address, piece)

    def request(self, method: str, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        """Send one sealed request; a session that ended meanwhile is renewed once, keys that are due are rotated.

        Raises `Refusal` for what the server refuses, `ServerUnreachable` for what may pass, such as an
        unsealed answer that calls the new session used up too: anybody on the way can send that.
        """
        for renewed in (False, True):
            session = self._current(len(body))
            try:
                session.requests += 1
                session.transfer_bytes += len(body)
                return self._exchange(session, method, path, body, content_type)
            except Refusal as refusal:
                if renewed and isinstance(refusal, UnvouchedRefusal):
                    detail = f"{refusal.code} again, right after a handshake, and no key vouches for it"
                    raise ServerUnreachable(detail) from refusal
                if renewed or refusal.code not in RENEW | {"key-rotation-required"}:
                    raise
                # Given up before anything else: where the answer to new keys is lost, a handshake tells what became.
                self._open = None
                if refusal.code == "key-rotation-required":
                    self._rotate(session)
                log.info("session_renewed", because=refusal.code)
        raise AssertionError("unreachable: the second pass returns or raises")

    def close(self) -> None:
        """End the session on both sides and forget its keys; one that is over there already is as good as closed."""
        if self._open is None:
            return
        session, self._open = self._open, None
        self._close(session)

    def forget(self) -> None:
        """Forget the session's keys without telling the server."""
        self._open = None

    def open(self) -> EstablishedSession:
        """Shake hands unless a session is open; return its terms. Raises `Refusal`, `ServerUnreachable`."""
        return self._current(0).terms

    def rotate_keys(self) -> None:
        """Register new keys for this device and go on with them. Raises `Refusal`, `ServerUnreachable`."""
        session, self._open = self._current(0), None
        self._rotate(session)

    def rekey(self) -> int:
        """Renew the session's keys now; return the generation that began.

        Where a lost answer has left the two sides in different generations, a handshake begins a session
        anew, with generation 0. Raises `Refusal`, `ServerUnreachable`.
        """
        session = self._rekeyed(self._current(0))
        if session is None:
            session = self._open = self._handshake()
        return session.chain.generation

    def server_time(self) -> float:
        """Return the server's Unix time as this session knows it: the device's clock may be wrong."""
        return self._handshaker.server_time()

    def _current(self, body_bytes: int) -> OpenSession:
        session = self._open
        if session is not None and self.server_time() - session.opened_at >= session.terms.limits.lifetime_seconds:
            session = None
        if session is not None:
            self._follow_the_clock(session)
            session = self._renewed(session, body_bytes)
        if session is None:
            session = self._open = self._handshake()
        self._follow_the_clock(session)
        return session

    def _follow_the_clock(self, session: OpenSession) -> None:
        now = self.server_time()
        session.chain = session.chain.advance(max(session.chain.epoch, bucket_of(now)), now=now)

    def _handshake(self) -> OpenSession:
        opened = self._handshaker.shake_hands()
        session = self._opened_session(opened.terms, opened.keys)
        if opened.terms.rotate_keys:
            self._rotate(session)
            opened = self._handshaker.shake_hands()
            session = self._opened_session(opened.terms, opened.keys)
        if opened.cosignature is not None:
            self._cosign(session, opened.cosignature)
        return session

    def _cosign(self, session: OpenSession, cosignature: bytes) -> None:
        """Hand in the signature under the checkpoint; the session does not hang on it, unless the log was forked."""
        body = encode({"cosignature": cosignature})
        session.requests, session.transfer_bytes = session.requests + 1, session.transfer_bytes + len(body)
        try:
            self._exchange(session, "POST", "/api/witness", body, CBOR)
        except (Refusal, ServerUnreachable) as failure:
            if isinstance(failure, SealedRefusal) and failure.code == "log-inconsistent":
                raise
            log.warning("checkpoint_not_cosigned", because=str(failure))

    def _opened_session(self, terms: EstablishedSession, keys: DeviceKeys) -> OpenSession:
        return OpenSession(terms, keys, terms.chain, self.server_time(), terms.chain.epoch)

    def _renewed(self, session: OpenSession, body_bytes: int) -> OpenSession | None:
        """Return the session, rekeyed where its allowance is used up; None where only a handshake helps."""
        limits = session.terms.limits
        used_epochs = session.chain.epoch - session.first_epoch
        if (
            session.requests < limits.requests
            and session.transfer_bytes + body_bytes <= limits.transfer_bytes
            and used_epochs < limits.epochs
        ):
            return session
        return self._rekeyed(session) if used_epochs <= limits.epochs else None

    def _rekeyed(self, session: OpenSession) -> OpenSession | None:
        """Return the session in its next generation; None where only a handshake helps."""
        try:
            chain = rekey_session(
                lambda message: self._exchange(session, "POST", "/api/session/rekey", encode(message), CBOR),
                RekeyContext(session.terms.suite, session.terms.session_id, session.chain),
                keys=session.keys,
                server=self._keeper.identity.identity,
                now=self.server_time,
            )
        except Refusal as refusal:
            log.info("session_not_rekeyed", because=refusal.code)
            return None
        session.begin_generation(chain)
        log.info("session_rekeyed", session=session.terms.session_id.hex()[:8], generation=chain.generation)
        return session

    def _close(self, session: OpenSession) -> None:
        try:
            self._exchange(session, "POST", "/api/session/close", encode({}), CBOR)
        except Refusal as refusal:
            if refusal.code not in RENEW:
                raise
            log.info("session_was_over", because=refusal.code)

    def _rotate(self, session: OpenSession) -> None:
        """Register new keys and end the session of the old ones: the next handshake proves the new."""
        rotate_keys(
            lambda message: self._exchange(session, "POST", "/api/keys/rotate", encode(message), CBOR),
            self._keeper,
            session.terms.session_id,
            session.keys,
            now=self.server_time(),
        )
        self._close(session)

    def _exchange(self, session: OpenSession, method: str, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        session.sequence += 1
        chain = session.chain
        key = chain.traffic_key(chain.epoch, chain.generation, now=self.server_time())
        target = Target(method, path, content_type, len(body))
        number = MessageNumber(session.terms.session_id, chain.generation, chain.epoch, session.sequence, new_salt())
        authorization, sealed = seal_request(key, number, target, body)
        headers = {"Authorization": authorization.to_header(), "Content-Length": str(len(sealed))}
        if body:
            headers |= {"Content-Type": SEALED_MEDIA_TYPE}
        if content_type:
            headers |= {CONTENT_TYPE_HEADER: content_type}
        try:
            response = self._send_same(method, path, sealed, headers)
        except Refusal as refusal:  # of an answer that is too long: nobody vouches for it
            raise ServerUnreachable(f"{refusal.code}: {refusal.detail}") from refusal
        if response.headers.get("Content-Type") != SEALED_MEDIA_TYPE:
            _raise_for_unsealed(response)
        try:
            answer = _sealed_answer(response.status_code, response.headers, response.content)
            plain = open_answer(key, authorization, answer)
        except Refusal as refusal:
            raise UnvouchedRefusal(refusal.code, refusal.detail) from refusal
        try:
            raise_for_problem(answer.status, answer.content_type, plain, response.headers)
        except Refusal as refusal:
            raise SealedRefusal(refusal.code, refusal.detail, **refusal.extensions) from None
        return answered_map(plain)

    def _send_same(self, method: str, path: str, sealed: bytes, headers: dict[str, str]) -> httpx.Response:
        """Send; when the answer is lost, send the very same bytes again: the server answers as before."""
        for _ in range(RESENDS):
            try:
                return self._http.send(method, path, sealed, headers)
            except ServerUnreachable as failure:
                RETRIES.add()
                log.info("request_resent", path=path, reason=str(failure))
        return self._http.send(method, path, sealed, headers)


class SealedRefusal(Refusal):
    """A refusal that was opened under the session's key: the server's own word, and nobody else's."""


def _raise_for_unsealed(response: httpx.Response) -> None:
    """An answer outside the session is nobody's word: it may make us shake hands again, and nothing else."""
    content_type = response.headers.get("Content-Type", "")
    try:
        raise_for_problem(response.status_code, content_type, response.content, response.headers)
    except Refusal as refusal:
        if refusal.code in RENEW:
            raise UnvouchedRefusal(refusal.code, refusal.detail) from refusal
        raise ServerUnreachable(f"an unsealed answer said {refusal.code}: {refusal.detail}") from refusal
    raise ServerUnreachable("an answer came unsealed")


def _sealed_answer(status: int, headers: Any, body: bytes) -> SealedAnswer:
    try:
        salt = bytes.fromhex(headers.get(SALT_HEADER, ""))
    except ValueError as error:
        raise Refusal("answer-not-authentic", "The sealed answer has no salt.") from error
    return SealedAnswer(status, headers.get(CONTENT_TYPE_HEADER, ""), salt, body)
