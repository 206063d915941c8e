"""A device registers new keys inside its session (docs/protocol.md, "Key rotation").

The new signature key signs both new keys, the old one authorises them, and the new KEM key opens a
challenge: possession of all three private keys is proved before anything changes.
"""

import secrets
from dataclasses import dataclass, field

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier, sign1, unverified_payload, verify1
from qflare_protocol.device_keys import DeviceKeys, RegisteredKeys
from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.kdf import equal, expand, extract, mac
from qflare_protocol.suites import largest_begin_bytes, suite_by_name

ID_BYTES, NONCE_BYTES, MAC_BYTES = 16, 32, 64

_BEGIN = frozenset({"device_id", "suite", "kem_key", "signature_key", "nonce"})
_AUTHORIZATION = frozenset({"kem_key", "signature_key"})
_CHALLENGE = frozenset({"attempt", "ciphertext", "nonce"})
_CONFIRMATION = frozenset({"kem_key", "signature_key", "valid_from", "predecessor_valid_until"})


@dataclass(frozen=True)
class RotationRequest:
    """K1: both signatures over the new keys, as they travel."""

    begin: bytes
    authorization: bytes

    @property
    def digest(self) -> bytes:
        """What the answers are bound to."""
        return digest("key rotation", self.begin, self.authorization)


def read_rotation(
    request: RotationRequest, *, device_id: bytes, session_id: bytes, registered: RegisteredKeys
) -> RegisteredKeys:
    """Return the new keys of K1, of the suite that the device has.

    Raises `Refusal`: "malformed-message", "suite-refused", "invalid-key", "invalid-signature".
    """
    maximum_bytes = largest_begin_bytes([registered.suite])
    payload = unverified_payload(request.begin, purpose="key rotation", maximum_bytes=maximum_bytes)
    payload = require_map(payload, _BEGIN, "key rotation")
    if text_field(payload, "suite", 40) != registered.suite:
        raise Refusal(
            "suite-refused", f"New keys have the device's suite, {registered.suite}; another needs enrolment."
        )
    new = RegisteredKeys(
        registered.suite,
        bytes_field(payload, "kem_key", maximum=maximum_bytes),
        bytes_field(payload, "signature_key"),
    )
    verify1(new.verifier, request.begin, purpose="key rotation", bound_to=session_id, maximum_bytes=maximum_bytes)
    if bytes_field(payload, "device_id", ID_BYTES) != device_id:
        raise Refusal("invalid-signature", "The key rotation names another device.")
    bytes_field(payload, "nonce", NONCE_BYTES)
    _check_authorization(request, registered.verifier, new)
    return new


def _check_authorization(request: RotationRequest, old: Verifier, new: RegisteredKeys) -> None:
    bound_to = digest("key rotation begin", request.begin)
    payload = verify1(old, request.authorization, purpose="key rotation authorization", bound_to=bound_to)
    named = require_map(payload, _AUTHORIZATION, "authorization")
    if named["kem_key"] != new.kem_fingerprint or named["signature_key"] != new.verifier.fingerprint:
        raise Refusal("invalid-signature", "The old key authorises other keys than those of the rotation.")


@dataclass(frozen=True)
class RotationChallenge:
    """K2, and what the server keeps, wrapped, until K3."""

    message: bytes
    secret_state: bytes = field(repr=False)


def make_rotation_challenge(
    request: RotationRequest, new: RegisteredKeys, *, identity: Signer, attempt: bytes
) -> RotationChallenge:
    """Make K2: encapsulate to the new KEM key and sign with the server identity key."""
    secret, ciphertext = pqc.kem(suite_by_name(new.suite).registered_kem).encapsulate(new.kem_public)
    payload = {"attempt": attempt, "ciphertext": ciphertext, "nonce": secrets.token_bytes(NONCE_BYTES)}
    message = sign1(identity, payload, purpose="key rotation challenge", bound_to=request.digest)
    transcript = _transcript(request, message)
    return RotationChallenge(message, encode([transcript, _confirmation_key(transcript, secret)]))


def check_rotation_response(secret_state: bytes, confirmation: bytes) -> None:
    """Return when K3's MAC holds. Raises `Refusal("key-rotation-refused")`."""
    transcript, key = decode(secret_state, what="rotation state")
    if not equal(confirmation, mac(key, "key rotation confirm", transcript)):
        raise Refusal("key-rotation-refused", "The proof of the new KEM key does not hold; start the rotation again.")


def make_rotation_confirmation(
    secret_state: bytes, new: RegisteredKeys, *, identity: Signer, valid_from: int, predecessor_valid_until: int
) -> bytes:
    """Make K4: the server identity key states which keys are valid from when, and the old ones until when."""
    transcript, _ = decode(secret_state, what="rotation state")
    payload = {
        "kem_key": new.kem_fingerprint,
        "signature_key": new.verifier.fingerprint,
        "valid_from": valid_from,
        "predecessor_valid_until": predecessor_valid_until,
    }
    return sign1(identity, payload, purpose="key rotation confirmation", bound_to=transcript)


class RotationClient:
    """The device's side of one rotation: K1, then K3 from K2, then K4 is checked."""

    def __init__(self, device_id: bytes, session_id: bytes, old: DeviceKeys, new: DeviceKeys, server: Verifier) -> None:
        self._new, self._server = new, server
        self._transcript = b""
        payload = {
            "device_id": device_id,
            "suite": new.suite,
            "kem_key": new.kem.public,
            "signature_key": new.signer.public,
            "nonce": secrets.token_bytes(NONCE_BYTES),
        }
        begin = sign1(new.signer, payload, purpose="key rotation", bound_to=session_id)
        self._registered = RegisteredKeys(new.suite, new.kem.public, new.signer.public)
        named = {"kem_key": self._registered.kem_fingerprint, "signature_key": new.signer.fingerprint}
        bound_to = digest("key rotation begin", begin)
        authorization = sign1(old.signer, named, purpose="key rotation authorization", bound_to=bound_to)
        self.request = RotationRequest(begin, authorization)

    def respond(self, challenge: bytes) -> tuple[bytes, bytes]:
        """Return (attempt id, MAC) for K3 once K2 proves the server. Raises `Refusal`."""
        bound_to = self.request.digest
        payload = verify1(self._server, challenge, purpose="key rotation challenge", bound_to=bound_to)
        payload = require_map(payload, _CHALLENGE, "rotation challenge")
        kem = pqc.kem(suite_by_name(self._new.suite).registered_kem)
        secret = kem.decapsulate(self._new.kem.private, payload["ciphertext"])
        self._transcript = _transcript(self.request, challenge)
        confirmation = mac(_confirmation_key(self._transcript, secret), "key rotation confirm", self._transcript)
        return bytes_field(payload, "attempt", ID_BYTES), confirmation

    def complete(self, confirmation: bytes) -> int:
        """Return until when the old keys stay valid, Unix seconds, when K4 names the new keys. Raises `Refusal`."""
        payload = verify1(self._server, confirmation, purpose="key rotation confirmation", bound_to=self._transcript)
        payload = require_map(payload, _CONFIRMATION, "rotation confirmation")
        named = (payload["kem_key"], payload["signature_key"])
        if named != (self._registered.kem_fingerprint, self._registered.verifier.fingerprint):
            raise Refusal("key-rotation-refused", "The server confirms other keys than those sent.")
        unsigned_field(payload, "valid_from")
        return unsigned_field(payload, "predecessor_valid_until")


def _transcript(request: RotationRequest, challenge: bytes) -> bytes:
    return digest("key rotation transcript", request.digest, digest("key rotation challenge", challenge))


def _confirmation_key(transcript: bytes, secret: bytes) -> bytes:
    return expand(extract(transcript, secret), "key rotation confirm", length=MAC_BYTES)
