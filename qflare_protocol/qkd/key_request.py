"""How a device learns which QKD key to fetch for its next handshake (docs/protocol.md, "QKD keys")."""

import secrets
import uuid
from dataclasses import dataclass

from qflare_protocol.cose import (
    FINGERPRINT_BYTES,
    Signer,
    Verifier,
    claimed_signer,
    sign1,
    unverified_payload,
    verify1,
)
from qflare_protocol.encoding import digest
from qflare_protocol.epochs import bucket_of
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.qkd.etsi014 import MAX_ENTITY_ID_CHARACTERS

ID_BYTES, NONCE_BYTES = 16, 32
MAX_REQUEST_BYTES = 64 * 1024

_REQUEST = frozenset({"device_id", "sae_id", "nonce", "bucket", "server_identity"})
_ANSWER = frozenset({"key_id", "sae_id", "expires_at"})


@dataclass(frozen=True)
class QkdKeyRequest:
    """The content of Q1 and the fingerprint of the key it names as its signer: a claim until it is verified."""

    device_id: bytes
    sae_id: str
    bucket: int
    server_identity: bytes
    signer: bytes


@dataclass(frozen=True)
class QkdKeyNotice:
    """The content of Q2: the key to fetch, the server's SAE as its master, and until when (Unix seconds)."""

    key_id: uuid.UUID
    sae_id: str
    expires_at: int


def make_qkd_key_request(device_id: bytes, signer: Signer, server: Verifier, *, sae_id: str, now: float) -> bytes:
    """Sign Q1 for the SAE id under which the device's own KME knows it."""
    payload = {
        "device_id": device_id,
        "sae_id": sae_id,
        "nonce": secrets.token_bytes(NONCE_BYTES),
        "bucket": bucket_of(now),
        "server_identity": server.fingerprint,
    }
    return sign1(signer, payload, purpose="QKD key request")


def read_qkd_key_request(message: bytes) -> QkdKeyRequest:
    """Read Q1 without believing it. Raises `Refusal("malformed-message")`."""
    payload = unverified_payload(message, purpose="QKD key request", maximum_bytes=MAX_REQUEST_BYTES)
    payload = require_map(payload, _REQUEST, "QKD key request")
    bytes_field(payload, "nonce", NONCE_BYTES)
    return QkdKeyRequest(
        bytes_field(payload, "device_id", ID_BYTES),
        text_field(payload, "sae_id", MAX_ENTITY_ID_CHARACTERS),
        unsigned_field(payload, "bucket"),
        bytes_field(payload, "server_identity", FINGERPRINT_BYTES),
        claimed_signer(message, maximum_bytes=MAX_REQUEST_BYTES),
    )


def verify_qkd_key_request(message: bytes, device: Verifier) -> None:
    """Check that the device's registered key signed Q1. Raises `Refusal("invalid-signature")`."""
    verify1(device, message, purpose="QKD key request", maximum_bytes=MAX_REQUEST_BYTES)


def answer_qkd_key_request(message: bytes, notice: QkdKeyNotice, identity: Signer) -> bytes:
    """Sign Q2, the answer to one Q1."""
    payload = {"key_id": notice.key_id.bytes, "sae_id": notice.sae_id, "expires_at": notice.expires_at}
    return sign1(identity, payload, purpose="QKD key", bound_to=digest("QKD key request", message))


def read_qkd_key_notice(answer: bytes, request: bytes, server: Verifier) -> QkdKeyNotice:
    """Return the content of Q2 when the server's identity key signed it for one's own Q1. Raises `Refusal`."""
    payload = verify1(server, answer, purpose="QKD key", bound_to=digest("QKD key request", request))
    payload = require_map(payload, _ANSWER, "QKD key")
    return QkdKeyNotice(
        uuid.UUID(bytes=bytes_field(payload, "key_id", ID_BYTES)),
        text_field(payload, "sae_id", MAX_ENTITY_ID_CHARACTERS),
        unsigned_field(payload, "expires_at"),
    )
