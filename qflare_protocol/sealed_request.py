"""Sealed requests and answers inside a session (docs/protocol.md, "Requests").

The body is AES-256-GCM ciphertext under a key of its own: HKDF over the epoch's traffic key,
direction, sequence number and a fresh 16-byte salt, so that no key is ever used for two messages.
"""

import re
import secrets
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from qflare_protocol.encoding import digest, frame, label
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import expand

SCHEME = "QFLARE1"
SEALED_MEDIA_TYPE = "application/vnd.qflare.sealed"
CONTENT_TYPE_HEADER = "QFLARE-Content-Type"
SALT_HEADER = "QFLARE-Salt"
TAG_BYTES, SALT_BYTES = 16, 16
SEQUENCE_WINDOW = 64

_HEADER = re.compile(
    rf"{SCHEME} session=([0-9a-f]{{32}}), generation=([0-9]{{1,9}}), epoch=([0-9]{{1,12}}), sequence=([0-9]{{1,15}}), "
    r"salt=([0-9a-f]{32}), tag=([0-9a-f]{32})"
)


@dataclass(frozen=True)
class MessageNumber:
    """Where a message stands: its session, generation, epoch, sequence number (from 1) and salt."""

    session_id: bytes
    generation: int
    epoch: int
    sequence: int
    salt: bytes

    def fields(self) -> tuple[bytes, ...]:
        """Return the five members as bytes, for derivation and authenticated data."""
        generation, epoch = self.generation.to_bytes(8, "big"), self.epoch.to_bytes(8, "big")
        return self.session_id, generation, epoch, self.sequence.to_bytes(8, "big"), self.salt


@dataclass(frozen=True)
class Target:
    """What a request is for: method, path with query, inner content type and body length in bytes."""

    method: str
    path: str
    content_type: str
    length: int

    def fields(self) -> tuple[bytes, ...]:
        """Return the members as bytes, for authenticated data."""
        text = (self.method.encode(), self.path.encode(), self.content_type.encode())
        return *text, self.length.to_bytes(8, "big")


@dataclass(frozen=True)
class Authorization:
    """The `Authorization` header of a sealed request: the message number and the GCM tag."""

    number: MessageNumber
    tag: bytes

    def to_header(self) -> str:
        """Return the header's value."""
        number = self.number
        return (
            f"{SCHEME} session={number.session_id.hex()}, generation={number.generation}, epoch={number.epoch}, "
            f"sequence={number.sequence}, salt={number.salt.hex()}, tag={self.tag.hex()}"
        )

    @classmethod
    def from_header(cls, value: str) -> "Authorization":
        """Read the header's value. Raises `Refusal("malformed-message")` for any other form."""
        match = _HEADER.fullmatch(value)
        if not match:
            raise Refusal("malformed-message", f"The Authorization header is not of the {SCHEME} form.")
        session, generation, epoch, sequence, salt, tag = match.groups()
        number = MessageNumber(bytes.fromhex(session), int(generation), int(epoch), int(sequence), bytes.fromhex(salt))
        parsed = cls(number, bytes.fromhex(tag))
        if parsed.to_header() != value or not number.sequence:
            raise Refusal("malformed-message", "The numbers of the Authorization header are not in canonical form.")
        return parsed


def _message_key(traffic_key: bytes, direction: str, number: MessageNumber) -> tuple[bytes, bytes]:
    """Return the AES-256 key and the nonce of one message."""
    material = expand(traffic_key, direction, *number.fields(), length=44)
    return material[:32], material[32:]


def _request_aad(number: MessageNumber, target: Target) -> bytes:
    return frame(label("request"), *number.fields(), *target.fields())


def new_salt() -> bytes:
    """Return the fresh random bytes that make a message's key its own."""
    return secrets.token_bytes(SALT_BYTES)


def seal_request(traffic_key: bytes, number: MessageNumber, target: Target, body: bytes) -> tuple[Authorization, bytes]:
    """Return the authorization and the ciphertext, which is as long as the body; the number's salt is a new one."""
    key, nonce = _message_key(traffic_key, "request", number)
    sealed = AESGCM(key).encrypt(nonce, body, _request_aad(number, target))
    return Authorization(number, sealed[-TAG_BYTES:]), sealed[:-TAG_BYTES]


class RequestOpener:
    """Opens a sealed request piece by piece; nothing it returned may be believed before `finish`."""

    def __init__(self, traffic_key: bytes, authorization: Authorization, target: Target) -> None:
        key, nonce = _message_key(traffic_key, "request", authorization.number)
        mode = GCM(nonce, authorization.tag)
        self._decryptor: CipherContext = Cipher(AES256(key), mode).decryptor()
        aad = _request_aad(authorization.number, target)
        self._decryptor.authenticate_additional_data(aad)
        self.request_digest = digest("request digest", aad, authorization.tag)

    def update(self, ciphertext: bytes) -> bytes:
        """Return the plaintext of the next piece, not yet authenticated."""
        return self._decryptor.update(ciphertext)

    def finish(self) -> None:
        """Check the tag over the whole request. Raises `Refusal("request-not-authentic")`."""
        try:
            self._decryptor.finalize()
        except InvalidTag as error:
            raise Refusal(
                "request-not-authentic", "The sealed request does not open; start a new handshake."
            ) from error


@dataclass(frozen=True)
class SealedAnswer:
    """An answer as it travels and as it is stored for a retry: all of it is already sealed."""

    status: int
    content_type: str
    salt: bytes
    body: bytes


def _answer_aad(number: MessageNumber, request_tag: bytes, status: int, content_type: str, length: int) -> bytes:
    stated = (request_tag, status.to_bytes(2, "big"), content_type.encode(), length.to_bytes(8, "big"))
    return frame(label("answer"), *number.fields(), *stated)


def seal_answer(
    traffic_key: bytes, authorization: Authorization, status: int, content_type: str, body: bytes
) -> SealedAnswer:
    """Seal an answer to one request; its body is the ciphertext and the tag."""
    number = replace(authorization.number, salt=new_salt())
    key, nonce = _message_key(traffic_key, "answer", number)
    aad = _answer_aad(number, authorization.tag, status, content_type, len(body))
    return SealedAnswer(status, content_type, number.salt, AESGCM(key).encrypt(nonce, body, aad))


def open_answer(traffic_key: bytes, authorization: Authorization, answer: SealedAnswer) -> bytes:
    """Return the answer's body. Raises `Refusal("answer-not-authentic")` when anything was changed."""
    if len(answer.body) < TAG_BYTES or len(answer.salt) != SALT_BYTES:
        raise Refusal("answer-not-authentic", "The sealed answer is too short.")
    number = replace(authorization.number, salt=answer.salt)
    key, nonce = _message_key(traffic_key, "answer", number)
    aad = _answer_aad(number, authorization.tag, answer.status, answer.content_type, len(answer.body) - TAG_BYTES)
    try:
        return AESGCM(key).decrypt(nonce, answer.body, aad)
    except InvalidTag as error:
        raise Refusal("answer-not-authentic", "The sealed answer does not open; start a new handshake.") from error
