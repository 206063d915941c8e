"""Enrolment: how a one-time token becomes a registered device (docs/protocol.md, "Enrolment").

E1 begin (device) and E2 challenge (server), then E3 finish (device) and E4 confirmation (server).
The token pins the server's identity key, so the device authenticates the server before it shows the
token secret, and shows it only encrypted to itself: under the secret that the server encapsulated
to the device's new KEM key. Opening E3 therefore proves both the token and the KEM key.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, sign1, unverified_payload, verify1
from qflare_protocol.device_keys import DeviceKeys, RegisteredKeys
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.identity_succession import resolve_identity
from qflare_protocol.kdf import expand, extract
from qflare_protocol.suites import LEAST_BEGIN_BYTES, suite_by_name

TOKEN_PREFIX = "QF1"  # noqa: S105 - a format name, no secret
SECRET_BYTES, LOOKUP_BYTES, FINGERPRINT_BYTES, NONCE_BYTES, ID_BYTES = 32, 16, 32, 32, 16
MAX_BEGIN_BYTES = LEAST_BEGIN_BYTES

_BEGIN = frozenset({"token", "name", "suite", "kem_key", "signature_key", "nonce"})
_CHALLENGE = frozenset({"attempt", "ciphertext", "nonce", "identity_algorithm", "identity_key", "expires_at"})
_CONFIRMATION = frozenset({"device_id", "name", "log_origin", "log_key", "enrolled_at"})


@dataclass(frozen=True)
class EnrolmentToken:
    """A one-time token as the operator hands it over: a secret and the server identity it pins."""

    secret: bytes = field(repr=False)
    identity_fingerprint: bytes

    @classmethod
    def generate(cls, identity_fingerprint: bytes) -> "EnrolmentToken":
        """Make a token with a fresh 32-byte secret."""
        return cls(secrets.token_bytes(SECRET_BYTES), identity_fingerprint)

    @classmethod
    def from_text(cls, text: str) -> "EnrolmentToken":
        """Read the form `QF1.<secret>.<fingerprint>`. Raises `Refusal("malformed-message")`."""
        parts = text.strip().split(".")
        try:
            secret, fingerprint = (_unarmour(part) for part in parts[1:])
        except (ValueError, binascii.Error) as error:
            raise Refusal("malformed-message", "The enrolment token is incomplete; copy it whole.") from error
        if parts[0] != TOKEN_PREFIX or (len(secret), len(fingerprint)) != (SECRET_BYTES, FINGERPRINT_BYTES):
            raise Refusal("malformed-message", "The enrolment token is incomplete; copy it whole.")
        return cls(secret, fingerprint)

    def to_text(self) -> str:
        """Return the form `QF1.<secret>.<fingerprint>`, both base64url without padding."""
        return f"{TOKEN_PREFIX}.{_armour(self.secret)}.{_armour(self.identity_fingerprint)}"

    @property
    def lookup(self) -> bytes:
        """The 16 bytes by which the server finds the token; they do not reveal the secret."""
        return digest("enrolment token lookup", self.secret)[:LOOKUP_BYTES]

    @property
    def verifier(self) -> bytes:
        """The 64-byte hash that the server stores instead of the secret."""
        return token_verifier(self.secret)


def token_verifier(secret: bytes) -> bytes:
    """Return the 64-byte hash of a token secret that the server stores."""
    return digest("enrolment token verifier", secret)


@dataclass(frozen=True)
class EnrolmentBegin:
    """The content of E1, its signature verified by the key it registers."""

    token_lookup: bytes
    name: str
    keys: RegisteredKeys
    nonce: bytes


def read_begin(message: bytes, *, maximum_bytes: int = MAX_BEGIN_BYTES) -> EnrolmentBegin:
    """Read E1; `maximum_bytes` is what the suites in use need (`suites.largest_begin_bytes`).

    Raises `Refusal`: "malformed-message", "suite-refused", "invalid-key", "invalid-signature".
    """
    claimed = _begin_from_map(unverified_payload(message, purpose="enrol begin", maximum_bytes=maximum_bytes))
    verify1(claimed.keys.verifier, message, purpose="enrol begin", maximum_bytes=maximum_bytes)
    return claimed


def _begin_from_map(payload: Any) -> EnrolmentBegin:
    payload = require_map(payload, _BEGIN, "enrolment request")
    keys = RegisteredKeys(
        suite_by_name(payload["suite"]).name, bytes_field(payload, "kem_key"), bytes_field(payload, "signature_key")
    )
    return EnrolmentBegin(
        bytes_field(payload, "token", LOOKUP_BYTES),
        text_field(payload, "name", 100),
        keys,
        bytes_field(payload, "nonce", NONCE_BYTES),
    )


@dataclass(frozen=True)
class EnrolmentChallenge:
    """E2 with what the server must keep until E3; `secret_state` is kept wrapped at rest."""

    message: bytes
    secret_state: bytes = field(repr=False)


def make_challenge(
    begin_message: bytes, begin: EnrolmentBegin, *, identity: Signer, attempt: bytes, expires_at: int
) -> EnrolmentChallenge:
    """Make E2: encapsulate to the device's KEM key and sign with the server identity key."""
    secret, ciphertext = pqc.kem(suite_by_name(begin.keys.suite).registered_kem).encapsulate(begin.keys.kem_public)
    payload = {
        "attempt": attempt,
        "ciphertext": ciphertext,
        "nonce": secrets.token_bytes(NONCE_BYTES),
        "identity_algorithm": identity.algorithm,
        "identity_key": identity.public,
        "expires_at": expires_at,
    }
    message = sign1(identity, payload, purpose="enrol challenge", bound_to=digest("enrol begin", begin_message))
    transcript = _transcript(begin_message, message)
    return EnrolmentChallenge(message, encode([transcript, _token_key(transcript, secret)]))


def open_finish(secret_state: bytes, sealed_token: bytes) -> bytes:
    """Return the token secret from E3. Raises `Refusal("enrolment-refused")` when it does not open."""
    transcript, key = decode(secret_state, what="enrolment state")
    try:
        return AESGCM(key).decrypt(bytes(12), sealed_token, transcript)
    except InvalidTag as error:
        raise Refusal(
            "enrolment-refused", "The proof of possession does not open; start the enrolment again."
        ) from error


def make_confirmation(secret_state: bytes, sealed_token: bytes, payload: dict[str, Any], *, identity: Signer) -> bytes:
    """Make E4, signed with the server identity key over the whole exchange."""
    transcript, _ = decode(secret_state, what="enrolment state")
    require_map(payload, _CONFIRMATION, "enrolment confirmation")
    return sign1(identity, payload, purpose="enrol confirmation", bound_to=_finished(transcript, sealed_token))


@dataclass(frozen=True)
class EnrolledDevice:
    """What a device keeps of E4: its id, the pinned server identity and the pinned log key."""

    device_id: bytes
    name: str
    identity: Verifier
    log_origin: str
    log_key: bytes


class EnrolmentClient:
    """The device's side of one enrolment: E1, then E3 from E2, then the result from E4."""

    def __init__(self, token: EnrolmentToken, name: str, keys: DeviceKeys) -> None:
        self._token, self._keys = token, keys
        self._transcript = b""
        self._sealed_token = b""
        self._identity: Verifier | None = None
        payload = {
            "token": token.lookup,
            "name": name,
            "suite": keys.suite,
            "kem_key": keys.kem.public,
            "signature_key": keys.signer.public,
            "nonce": secrets.token_bytes(NONCE_BYTES),
        }
        self.begin = sign1(keys.signer, payload, purpose="enrol begin")

    def finish(self, challenge: bytes, succession: Sequence[bytes] = ()) -> tuple[bytes, bytes]:
        """Return (attempt id, sealed token) for E3 once E2 proves the pinned server identity.

        `succession` leads from the key that the token pins to the one that signed E2, where it was rotated.
        Raises `Refusal("server-not-authenticated")` for any other identity key.
        """
        payload = require_map(
            unverified_payload(challenge, purpose="enrol challenge"), _CHALLENGE, "enrolment challenge"
        )
        identity = Verifier(text_field(payload, "identity_algorithm", 40), bytes_field(payload, "identity_key"))
        resolve_identity(self._token.identity_fingerprint, identity, succession)
        verify1(identity, challenge, purpose="enrol challenge", bound_to=digest("enrol begin", self.begin))
        unsigned_field(payload, "expires_at")
        kem = pqc.kem(suite_by_name(self._keys.suite).registered_kem)
        secret = kem.decapsulate(self._keys.kem.private, payload["ciphertext"])
        self._identity, self._transcript = identity, _transcript(self.begin, challenge)
        key = _token_key(self._transcript, secret)
        self._sealed_token = AESGCM(key).encrypt(bytes(12), self._token.secret, self._transcript)
        return bytes_field(payload, "attempt", ID_BYTES), self._sealed_token

    def complete(self, confirmation: bytes) -> EnrolledDevice:
        """Return what to keep of E4. Raises `Refusal` when the pinned identity did not sign it."""
        if self._identity is None:
            raise Refusal("malformed-message", "The enrolment has not been finished yet.")
        bound_to = _finished(self._transcript, self._sealed_token)
        payload = verify1(self._identity, confirmation, purpose="enrol confirmation", bound_to=bound_to)
        payload = require_map(payload, _CONFIRMATION, "enrolment confirmation")
        return EnrolledDevice(
            bytes_field(payload, "device_id", ID_BYTES),
            text_field(payload, "name"),
            self._identity,
            text_field(payload, "log_origin"),
            bytes_field(payload, "log_key"),
        )


def _transcript(begin: bytes, challenge: bytes) -> bytes:
    return digest("enrol transcript", digest("enrol begin", begin), digest("enrol challenge", challenge))


def _finished(transcript: bytes, sealed_token: bytes) -> bytes:
    return digest("enrol finished", transcript, sealed_token)


def _token_key(transcript: bytes, secret: bytes) -> bytes:
    return expand(extract(transcript, secret), "enrol token key")


def _armour(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unarmour(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
