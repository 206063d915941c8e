"""The session handshake M1 to M4 (docs/protocol.md, "Session").

Three encapsulations enter the root: to the device's ephemeral key (forward secrecy), to its
registered key (authenticates the device) and to the server's ephemeral key; a QKD key, where there is
one, enters as a fourth input. KEMs do not fail but return another secret, so neither side believes
anything before the confirmation MACs.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qflare_protocol import pqc
from qflare_protocol.cose import (
    FINGERPRINT_BYTES,
    Signer,
    Verifier,
    claimed_signer,
    sign1,
    unverified_payload,
    verify1,
)
from qflare_protocol.device_keys import DeviceKeys, RegisteredKeys
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.epochs import EpochChain, SessionLimits, bucket_of
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import boolean_field, bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.identity_succession import follow_succession
from qflare_protocol.kdf import equal, expand, extract, mac
from qflare_protocol.pqc import KeyPair
from qflare_protocol.qkd.etsi014 import QkdKey
from qflare_protocol.suites import SUITES, choose_suite, suite_by_name

ID_BYTES, NONCE_BYTES, MAC_BYTES, ROOT_BYTES = 16, 32, 64, 32
MAX_CHALLENGE_BYTES = 64 * 1024
MAX_SKEW_BUCKETS = 1
MAX_NOTE_BYTES = 16 * 1024

_M1 = frozenset(
    {"suites", "device_id", "nonce", "bucket", "ephemeral_key", "checkpoint", "server_identity", "qkd_key_id"}
)
_M2 = frozenset(
    {
        "suite", "session_id", "nonce", "epoch", "server_time", "ephemeral_ciphertext", "registered_ciphertext",
        "ephemeral_key", "limits", "checkpoint", "consistency_proof", "rotate_keys", "current_key",
    }
)  # fmt: skip


@dataclass(frozen=True)
class SeenCheckpoint:
    """The last log checkpoint a device has verified: tree size and 32-byte root."""

    size: int
    root: bytes

    def to_list(self) -> list[Any]:
        """Return the wire form `[size, root]`."""
        return [self.size, self.root]

    @classmethod
    def from_wire(cls, value: Any) -> "SeenCheckpoint | None":
        """Read `[size, root]` or null. Raises `Refusal("malformed-message")`."""
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise Refusal("malformed-message", "The checkpoint must be null or a list of size and root.")
        members = {"size": value[0], "root": value[1]}
        return cls(unsigned_field(members, "size"), bytes_field(members, "root", ROOT_BYTES))


@dataclass(frozen=True)
class ChallengeRequest:
    """The content of M1 and the fingerprint of the key it names as its signer.

    All of it is a claim until `verify_challenge_request`. `server_identity` is the fingerprint of the
    identity key the device pins, `qkd_key_id` names the QKD key to mix in, where there is one.
    """

    suites: list[str]
    device_id: bytes
    nonce: bytes
    bucket: int
    ephemeral_key: bytes
    checkpoint: SeenCheckpoint | None
    server_identity: bytes
    qkd_key_id: bytes | None
    signer: bytes


def read_challenge_request(message: bytes) -> ChallengeRequest:
    """Read M1 without believing it: the device id is needed to find the key that must have signed."""
    payload = unverified_payload(message, purpose="M1", maximum_bytes=MAX_CHALLENGE_BYTES)
    payload = require_map(payload, _M1, "challenge request")
    suites = payload["suites"]
    if not isinstance(suites, list) or len(suites) > 32 or not all(isinstance(name, str) for name in suites):
        raise Refusal("malformed-message", "The field suites must be a list of at most 32 suite names.")
    return ChallengeRequest(
        suites,
        bytes_field(payload, "device_id", ID_BYTES),
        bytes_field(payload, "nonce", NONCE_BYTES),
        unsigned_field(payload, "bucket"),
        bytes_field(payload, "ephemeral_key"),
        SeenCheckpoint.from_wire(payload["checkpoint"]),
        bytes_field(payload, "server_identity", FINGERPRINT_BYTES),
        None if payload["qkd_key_id"] is None else bytes_field(payload, "qkd_key_id", ID_BYTES),
        claimed_signer(message, maximum_bytes=MAX_CHALLENGE_BYTES),
    )


def verify_challenge_request(message: bytes, request: ChallengeRequest, registered: RegisteredKeys) -> None:
    """Check that the device's registered key signed M1 and that its suite and ephemeral key hold.

    Raises `Refusal`: "invalid-signature", "suite-refused", "invalid-key".
    """
    verify1(registered.verifier, message, purpose="M1", maximum_bytes=MAX_CHALLENGE_BYTES)
    suite = choose_suite(request.suites, registered=registered.suite)
    pqc.kem(suite.ephemeral_kem).check_public_key(request.ephemeral_key)


def check_clock(bucket: int, *, now: float) -> None:
    """Refuse a device clock whose bucket is more than one away. Raises `Refusal("clock-skew")`."""
    if abs(bucket - bucket_of(now)) > MAX_SKEW_BUCKETS:
        raise Refusal("clock-skew", "The device clock is off by more than five minutes; take the signed server time.")


@dataclass(frozen=True)
class Terms:
    """What the server states in M2 beside the key exchange.

    `current_key` is the fingerprint of the device's current signature key; where `rotate_keys` holds, the
    device has to register new keys before it does anything else.
    """

    session_id: bytes
    server_time: float
    limits: SessionLimits
    checkpoint: str | None
    consistency_proof: list[bytes]
    current_key: bytes
    rotate_keys: bool = False


@dataclass(frozen=True)
class PendingHandshake:
    """What the server keeps, wrapped, between M2 and M3."""

    suite: str
    transcript: bytes
    epoch: int
    ephemeral_secret: bytes = field(repr=False)
    registered_secret: bytes = field(repr=False)
    ephemeral_private: bytes = field(repr=False)
    qkd_key: bytes | None = field(repr=False)

    def with_qkd_key(self, key: bytes | None) -> "PendingHandshake":
        """Return the state of a handshake whose root also has this QKD key (32 bytes), or none."""
        return replace(self, qkd_key=key)

    def to_bytes(self) -> bytes:
        """Serialise for storage under a wrapping key."""
        secret_parts = [self.ephemeral_secret, self.registered_secret, self.ephemeral_private, self.qkd_key]
        return encode([self.suite, self.transcript, self.epoch, *secret_parts])

    @classmethod
    def from_bytes(cls, data: bytes) -> "PendingHandshake":
        """Read what `to_bytes` wrote."""
        return cls(*decode(data, what="pending handshake"))


def answer_challenge(
    message: bytes,
    request: ChallengeRequest,
    registered: RegisteredKeys,
    terms: Terms,
    identity: Signer,
    *,
    ephemeral: KeyPair,
) -> tuple[bytes, PendingHandshake]:
    """Return M2 and the state to keep; `request` must have passed `verify_challenge_request`.

    `ephemeral` is a fresh key pair of the suite's ephemeral KEM, used for nothing else. Where
    `request.qkd_key_id` names a QKD key, it is added to the state (`PendingHandshake.with_qkd_key`).
    """
    suite = suite_by_name(registered.suite)
    ephemeral_secret, ephemeral_ciphertext = pqc.kem(suite.ephemeral_kem).encapsulate(request.ephemeral_key)
    registered_secret, registered_ciphertext = pqc.kem(suite.registered_kem).encapsulate(registered.kem_public)
    epoch = bucket_of(terms.server_time)
    payload = {
        "suite": suite.name,
        "session_id": terms.session_id,
        "nonce": secrets.token_bytes(NONCE_BYTES),
        "epoch": epoch,
        "server_time": int(terms.server_time * 1000),
        "ephemeral_ciphertext": ephemeral_ciphertext,
        "registered_ciphertext": registered_ciphertext,
        "ephemeral_key": ephemeral.public,
        "limits": _limits_to_list(terms.limits),
        "checkpoint": terms.checkpoint.encode() if terms.checkpoint else None,
        "consistency_proof": terms.consistency_proof,
        "rotate_keys": terms.rotate_keys,
        "current_key": terms.current_key,
    }
    answer = sign1(identity, payload, purpose="M2", bound_to=digest("M1", message))
    transcript = digest("M1 M2", digest("M1", message), digest("M2", answer))
    secret_parts = (ephemeral_secret, registered_secret, ephemeral.private, None)
    return answer, PendingHandshake(suite.name, transcript, epoch, *secret_parts)


def accept_response(pending: PendingHandshake, ciphertext: bytes, confirmation: bytes) -> tuple[bytes, EpochChain]:
    """Return M4's MAC and the session's first epoch chain when M3's confirmation MAC holds.

    Raises `Refusal("authentication-failed")`, which does not say which of the secrets differed.
    """
    server_secret = pqc.kem(suite_by_name(pending.suite).ephemeral_kem).decapsulate(
        pending.ephemeral_private, ciphertext
    )
    transcript = _full_transcript(pending.transcript, ciphertext)
    root = _root(transcript, pending.ephemeral_secret, pending.registered_secret, server_secret, pending.qkd_key)
    if not equal(confirmation, _confirmation(root, "device", transcript)):
        raise Refusal("authentication-failed", "The handshake confirmation does not hold; start a new handshake.")
    return _confirmation(root, "server", transcript), EpochChain.begin(root, pending.epoch)


@dataclass(frozen=True)
class EstablishedSession:
    """What the device keeps of a handshake. `clock_offset` is server time minus device time, seconds.

    `server_identity` is the key that signed M2: the pinned one, or the successor to pin from now on.
    """

    session_id: bytes
    suite: str
    chain: EpochChain
    limits: SessionLimits
    clock_offset: float
    checkpoint: str | None
    consistency_proof: list[bytes]
    rotate_keys: bool
    current_key: bytes
    server_identity: Verifier


class ClientHandshake:
    """The device's side of one handshake: M1, then M3 from M2, then the session from M4."""

    def __init__(
        self,
        device_id: bytes,
        keys: DeviceKeys,
        server: Verifier,
        *,
        now: float,
        checkpoint: SeenCheckpoint | None,
        qkd: QkdKey | None = None,
    ) -> None:
        self._keys, self._server, self._now, self._qkd = keys, server, now, qkd
        ephemeral = pqc.kem(suite_by_name(keys.suite).ephemeral_kem).generate()
        self._ephemeral_private = ephemeral.private
        payload = {
            "suites": [name for name in SUITES if name == keys.suite],
            "device_id": device_id,
            "nonce": secrets.token_bytes(NONCE_BYTES),
            "bucket": bucket_of(now),
            "ephemeral_key": ephemeral.public,
            "checkpoint": checkpoint.to_list() if checkpoint else None,
            "server_identity": server.fingerprint,
            "qkd_key_id": qkd.key_id.bytes if qkd else None,
        }
        self.request = sign1(keys.signer, payload, purpose="M1")
        self._answer: Mapping[str, Any] = {}
        self._root = self._transcript = b""

    def respond(self, answer: bytes, succession: Sequence[bytes] = ()) -> tuple[bytes, bytes, bytes]:
        """Return (session id, ciphertext, confirmation MAC) for M3 once M2 proves the pinned server.

        `succession` leads from the pinned identity key to the one that signed M2, where it was rotated.
        Raises `Refusal`: "invalid-signature", "suite-refused", "invalid-key", "malformed-message",
        "server-not-authenticated".
        """
        self._server = follow_succession(self._server, succession)
        payload = verify1(self._server, answer, purpose="M2", bound_to=digest("M1", self.request))
        self._answer = require_map(payload, _M2, "challenge answer")
        suite = choose_suite([self._keys.suite], registered=text_field(self._answer, "suite"))
        ephemeral_kem, registered_kem = pqc.kem(suite.ephemeral_kem), pqc.kem(suite.registered_kem)
        ephemeral_secret = ephemeral_kem.decapsulate(self._ephemeral_private, self._answer["ephemeral_ciphertext"])
        registered_secret = registered_kem.decapsulate(self._keys.kem.private, self._answer["registered_ciphertext"])
        server_secret, ciphertext = ephemeral_kem.encapsulate(self._answer["ephemeral_key"])
        self._transcript = _full_transcript(
            digest("M1 M2", digest("M1", self.request), digest("M2", answer)), ciphertext
        )
        qkd_key = self._qkd.key if self._qkd else None
        self._root = _root(self._transcript, ephemeral_secret, registered_secret, server_secret, qkd_key)
        confirmation = _confirmation(self._root, "device", self._transcript)
        return bytes_field(self._answer, "session_id", ID_BYTES), ciphertext, confirmation

    def establish(self, confirmation: bytes) -> EstablishedSession:
        """Return the session when M4's MAC holds.

        Raises `Refusal`: "server-not-authenticated", "malformed-message" for terms out of form.
        """
        if not self._root or not equal(confirmation, _confirmation(self._root, "server", self._transcript)):
            raise Refusal("server-not-authenticated", "The server's confirmation does not hold; start a new handshake.")
        answer, root = self._answer, self._root
        self._root = self._ephemeral_private = b""
        checkpoint, epoch = answer["checkpoint"], unsigned_field(answer, "epoch")
        server_time = unsigned_field(answer, "server_time") / 1000
        if epoch != bucket_of(server_time):
            raise Refusal("malformed-message", "The session's first epoch is not that of the server's time.")
        return EstablishedSession(
            bytes_field(answer, "session_id", ID_BYTES),
            text_field(answer, "suite"),
            EpochChain.begin(root, epoch),
            _limits_from_wire(answer["limits"]),
            server_time - self._now,
            None if checkpoint is None else _note_from_wire(answer),
            _proof_from_wire(answer["consistency_proof"]),
            boolean_field(answer, "rotate_keys"),
            bytes_field(answer, "current_key", FINGERPRINT_BYTES),
            self._server,
        )


def _full_transcript(first_half: bytes, ciphertext: bytes) -> bytes:
    return digest("transcript", first_half, ciphertext)


def _confirmation(root: bytes, side: str, transcript: bytes) -> bytes:
    return mac(expand(root, f"confirm {side}", length=MAC_BYTES), f"confirm {side}", transcript)


def _root(
    transcript: bytes, ephemeral: bytes, registered: bytes, server_ephemeral: bytes, qkd_key: bytes | None
) -> bytes:
    """Mix all secrets; a QKD key is one more of them and never stands in for another."""
    additional = () if qkd_key is None else (qkd_key,)
    return extract(transcript, ephemeral, registered, server_ephemeral, *additional)


def _limits_to_list(limits: SessionLimits) -> list[int]:
    return [limits.requests, limits.transfer_bytes, limits.epochs, limits.lifetime_seconds]


def _limits_from_wire(value: Any) -> SessionLimits:
    if not isinstance(value, list) or len(value) != 4 or not all(type(item) is int and item > 0 for item in value):
        raise Refusal("malformed-message", "The limits must be four positive whole numbers.")
    highest = _limits_to_list(SessionLimits())
    if any(stated > allowed for stated, allowed in zip(value, highest, strict=True)):
        raise Refusal("malformed-message", f"The limits may be at most {highest}; a server can only lower them.")
    return SessionLimits(*value)


def _note_from_wire(answer: Mapping[str, Any]) -> str:
    try:
        return bytes_field(answer, "checkpoint", maximum=MAX_NOTE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise Refusal("malformed-message", "The checkpoint must be a note in UTF-8.") from error


def _proof_from_wire(value: Any) -> list[bytes]:
    if not isinstance(value, list) or len(value) > 128 or not all(isinstance(node, bytes) for node in value):
        raise Refusal("malformed-message", "The consistency proof must be a list of at most 128 hashes.")
    return value
