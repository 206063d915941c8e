"""How a device opens a session: the handshake, its clock, a QKD key where one is wanted, the log it witnesses."""

import base64
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from edge_client import measured
from edge_client.device_state import DeviceStateFile
from edge_client.http import Http, ServerUnreachable
from edge_client.identity_keeper import IdentityKeeper
from edge_client.qkd import OFF, QkdSettings, device_kme_client
from qflare_protocol import pqc
from qflare_protocol.checkpoint import verify_checkpoint
from qflare_protocol.cose import Verifier
from qflare_protocol.device_keys import DeviceKeys
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field
from qflare_protocol.handshake import ClientHandshake, EstablishedSession, SeenCheckpoint
from qflare_protocol.identity_succession import (
    MAX_STATEMENT_BYTES,
    MAX_STATEMENTS,
    follow_log_succession,
    follow_succession,
)
from qflare_protocol.log_cosignature import CosignedCheckpoint, cosign_checkpoint
from qflare_protocol.merkle import verify_consistency
from qflare_protocol.qkd import QkdUnavailable, QkdUse
from qflare_protocol.qkd.etsi014 import QkdKey
from qflare_protocol.qkd.key_request import make_qkd_key_request, read_qkd_key_notice
from qflare_protocol.server_time import read_server_time
from qflare_protocol.suites import suite_by_name

log = structlog.get_logger(__name__)

LOG_SIGNATURE_ALGORITHM = "ML-DSA-44"
SILENT_LOG_SECONDS = 600
LONGEST_OVERLAP_SECONDS = 30 * 86_400
HANDSHAKES = 3
START_AGAIN = frozenset({"handshake-expired", "handshake-used", "qkd-key-refused"})
FINAL = frozenset(
    {
        "authentication-failed", "device-suspended", "suite-refused", "server-not-authenticated", "invalid-key",
        "invalid-signature", "malformed-message", "clock-skew", "log-inconsistent", "proof-refused", "qkd-required",
        "algorithm-unavailable",
    }
)  # fmt: skip


class UnvouchedRefusal(Refusal):
    """A refusal, or an answer that does not hold, for which no key of the server vouches: anybody can send it."""


@dataclass(frozen=True)
class OpenedSession:
    """What a handshake gave, and the keys with which the device proved itself in it.

    `cosignature` is the device's signature under a checkpoint of the log that it has not seen before.
    """

    terms: EstablishedSession
    keys: DeviceKeys
    cosignature: bytes | None = None


class Handshaker:
    """Shakes hands for one device; remembers how far its clock is off."""

    def __init__(
        self,
        http: Http,
        keeper: IdentityKeeper,
        memory: DeviceStateFile,
        clock: Callable[[], float] = time.time,
        qkd: QkdSettings = OFF,
    ) -> None:
        self._http, self._keeper, self._memory, self._clock, self._qkd = http, keeper, memory, clock, qkd
        self._clock_offset = 0.0

    def server_time(self) -> float:
        """Return the server's Unix time as far as it is known: the device's clock may be wrong."""
        return self._clock() + self._clock_offset

    def shake_hands(self) -> OpenedSession:
        """Open a session with the keys the server knows as current.

        Where the answer to a registration of new keys was lost, the handshake tells what became of it.
        Raises `UnvouchedRefusal` until the server has proved itself, then `Refusal`; `ServerUnreachable`.
        """
        self._memory.refuse_after_log_incident()
        for _ in range(HANDSHAKES):
            try:
                return self._with_current_keys()
            except Refusal as refusal:
                if refusal.code not in START_AGAIN | FINAL:
                    raise ServerUnreachable(f"the handshake was answered with {refusal.code}") from refusal
                if refusal.code in FINAL:
                    raise
                log.info("handshake_begun_anew", because=refusal.code)
        raise ServerUnreachable(f"{HANDSHAKES} handshakes came to nothing")

    def _with_current_keys(self) -> OpenedSession:
        following = self._keeper.identity.next_keys
        try:
            opened = self._with_right_clock(self._keeper.identity.keys)
        except Refusal as refusal:
            if refusal.code != "authentication-failed" or following is None:
                raise
            opened = self._with_right_clock(following)
            self._promote_next_keys()
        if opened.terms.current_key == opened.keys.signer.fingerprint:
            self._keeper.pin_server(opened.terms.server_identity)
            return opened
        if following is None or opened.terms.current_key != following.signer.fingerprint:
            detail = "Somebody else has registered new keys for this device with its old ones; have it revoked."
            raise Refusal("authentication-failed", detail)
        self._promote_next_keys()
        self._keeper.pin_server(opened.terms.server_identity)
        return self._with_right_clock(following)

    def _promote_next_keys(self) -> None:
        until = int(self.server_time()) + LONGEST_OVERLAP_SECONDS  # the server's word on it was lost
        self._keeper.promote_next_keys(old_valid_until=until, now=self.server_time())
        log.info("new_keys_found_registered")

    def _with_right_clock(self, keys: DeviceKeys) -> OpenedSession:
        """Shake hands; a wrong clock is set by the server's signed time, once."""
        try:
            return self._shake_once(keys)
        except _WrongClock as wrong:
            self._clock_offset = wrong.server_time - self._clock()
            log.warning("clock_corrected", offset_seconds=round(self._clock_offset))
        try:
            return self._shake_once(keys)
        except _WrongClock as wrong:
            raise UnvouchedRefusal(wrong.refusal.code, wrong.refusal.detail) from wrong

    def _shake_once(self, keys: DeviceKeys) -> OpenedSession:
        _require_engines(keys.suite)
        seen = self._memory.state.checkpoint
        try:
            qkd = self._qkd_key(keys)
            terms, log_succession = self._established(keys, seen, qkd)
        except Refusal as refusal:
            measured.HANDSHAKES.add("refused")
            raise UnvouchedRefusal(refusal.code, refusal.detail) from refusal
        self._clock_offset += terms.clock_offset
        witnessed = self._witness_or_stop(terms, seen, log_succession)
        measured.HANDSHAKES.add("opened")
        log.info("session_opened", session=terms.session_id.hex()[:8], suite=terms.suite, qkd=qkd is not None)
        if witnessed is None or witnessed == seen:
            return OpenedSession(terms, keys)
        known = CosignedCheckpoint(self._keeper.identity.log_origin, witnessed.size, witnessed.root)
        return OpenedSession(terms, keys, cosign_checkpoint(keys.signer, known))

    def _established(
        self, keys: DeviceKeys, seen: SeenCheckpoint | None, qkd: QkdKey | None
    ) -> tuple[EstablishedSession, list[bytes]]:
        """Return the session, and what leads from one key of the server's log to the next."""
        identity, now = self._keeper.identity, self.server_time()
        handshake = ClientHandshake(identity.device_id, keys, identity.identity, now=now, checkpoint=seen, qkd=qkd)
        answer = self._post_signed("/api/challenge", handshake.request)
        session_id, ciphertext, confirmation = handshake.respond(bytes_field(answer, "answer"), succession_of(answer))
        message = {"session_id": session_id, "ciphertext": ciphertext, "confirmation": confirmation}
        confirmed = self._http.post_cbor("/api/authenticate", message)
        return handshake.establish(bytes_field(confirmed, "confirmation")), succession_of(answer, "log_succession")

    def _post_signed(self, path: str, request: bytes) -> dict[str, Any]:
        """Post a signed message; a refusal for its time comes as `_WrongClock` with the server's signed time."""
        try:
            return self._http.post_cbor(path, {"request": request})
        except Refusal as refusal:
            if refusal.code == "clock-skew":
                raise self._wrong_clock(refusal, request) from refusal
            raise

    def _wrong_clock(self, refusal: Refusal, message: bytes) -> "_WrongClock | Refusal":
        signed, steps = refusal.extensions.get("signed_server_time"), refusal.extensions.get("identity_succession", [])
        if not isinstance(signed, str) or not isinstance(steps, list):
            return refusal
        try:
            succession = [base64.urlsafe_b64decode(step) for step in steps]
            decoded = base64.urlsafe_b64decode(signed)
        except (ValueError, TypeError):
            return refusal
        server = follow_succession(self._keeper.identity.identity, succession)
        return _WrongClock(read_server_time(server, decoded, bound_to=message), refusal)

    def _qkd_key(self, keys: DeviceKeys) -> QkdKey | None:
        """Return a QKD key for the next handshake as far as this device's policy asks for one."""
        if self._qkd.use == QkdUse.OFF:
            return None
        try:
            return self._fetched_qkd_key(keys)
        except (QkdUnavailable, ServerUnreachable) as failure:
            if self._qkd.use == QkdUse.REQUIRED:
                wait = getattr(failure, "retry_after_seconds", 0.0)
                raise ServerUnreachable(f"no QKD key, which this device requires: {failure}", wait) from failure
            log.warning("qkd_unavailable", reason=str(failure))
            return None

    def _fetched_qkd_key(self, keys: DeviceKeys) -> QkdKey:
        identity = self._keeper.identity
        request = make_qkd_key_request(
            identity.device_id, keys.signer, identity.identity, sae_id=self._qkd.sae_id, now=self.server_time()
        )
        answer = self._post_signed("/api/request_qkey", request)
        server = follow_succession(identity.identity, succession_of(answer))
        notice = read_qkd_key_notice(bytes_field(answer, "answer"), request, server)
        kme = device_kme_client(self._qkd)
        if kme is None:
            raise QkdUnavailable("This device has no key management entity.")
        return _key_named(kme.dec_keys(notice.sae_id, [notice.key_id]), notice.key_id)

    def _witness_or_stop(
        self, terms: EstablishedSession, seen: SeenCheckpoint | None, succession: list[bytes]
    ) -> SeenCheckpoint | None:
        """Witness the log; what does not hold is kept as an incident, and the device stops until a person has looked.

        The server has proved itself by now, so it is its own word that does not hold, and nobody else's.
        """
        try:
            return self._witness(terms, seen, succession)
        except Refusal as refusal:
            kept = self._memory.keep_log_incident(
                {
                    "severity": "critical",
                    "found_at": int(self.server_time()),
                    "reason": f"{refusal.code}: {refusal.detail}",
                    "server": self._keeper.identity.server,
                    "seen": None if seen is None else {"size": seen.size, "root": seen.root.hex()},
                    "shown": terms.checkpoint,
                    "consistency_proof": [value.hex() for value in terms.consistency_proof],
                }
            )
            log.critical("log_forked_or_rolled_back", incident=str(kept), reason=refusal.detail)
            raise

    def _witness(
        self, terms: EstablishedSession, seen: SeenCheckpoint | None, succession: list[bytes]
    ) -> SeenCheckpoint | None:
        """Demand that the server's log extends the one seen last; return what is seen now.

        Raises `Refusal("log-inconsistent")`, and what `verify_checkpoint` raises.
        """
        if terms.checkpoint is None:
            if seen is not None:
                raise Refusal("log-inconsistent", "The server shows no checkpoint, but this device has seen one.")
            return None
        identity = self._keeper.identity
        verifier = follow_log_succession(Verifier(LOG_SIGNATURE_ALGORITHM, identity.log_key), succession)
        signed = verify_checkpoint(terms.checkpoint, verifier, identity.log_origin)
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
        self._keeper.pin_log(verifier.public)
        witnessed = SeenCheckpoint(current.size, current.root)
        self._memory.remember_if_there_is_room(checkpoint=witnessed)
        return witnessed


class _WrongClock(Exception):  # noqa: N818 - internal turn of the handshake, not an error
    def __init__(self, server_time: float, refusal: Refusal) -> None:
        super().__init__("The device clock is wrong.")
        self.server_time, self.refusal = server_time, refusal


def _require_engines(suite_name: str) -> None:
    """Return when this device can serve its suite. Raises `Refusal("algorithm-unavailable")`: no server can mend it."""
    suite = suite_by_name(suite_name)
    pqc.kem(suite.registered_kem)
    pqc.kem(suite.ephemeral_kem)
    pqc.signature(suite.signature)


def succession_of(answer: dict[str, Any], member: str = "succession") -> list[bytes]:
    """Return the succession of identity or log keys beside a signed answer. Raises `Refusal("malformed-message")`."""
    steps = answer.get(member, [])
    if not isinstance(steps, list) or len(steps) > MAX_STATEMENTS:
        raise Refusal("malformed-message", "The identity succession must be a short list.")
    if not all(isinstance(step, bytes) and len(step) <= MAX_STATEMENT_BYTES for step in steps):
        raise Refusal("malformed-message", "The identity succession must consist of byte strings.")
    return steps


def _key_named(keys: list[QkdKey], key_id: uuid.UUID) -> QkdKey:
    for key in keys:
        if key.key_id == key_id:
            return key
    raise QkdUnavailable("The KME gave another key than the one asked for.")
