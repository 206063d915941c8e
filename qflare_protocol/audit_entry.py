"""Entries of the audit log: their canonical bytes, what each commits to, the hash chain, and the leaves of the tree.

An entry is the deterministic CBOR array [index, occurred_at, kind, commitment, previous_hash]. Who did
it and what it was about stands in its disclosure, the array [salt, actor, payload], of which the entry
holds the hash only: a disclosure can be erased, and every proof still holds. The salt keeps anybody
from guessing what was erased.

The hash of an entry is SHA3-512 under the label "audit entry" and is the `previous_hash` of the next
one; the same bytes are the leaf data of the Merkle tree. The first entry follows 64 zero bytes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal

GENESIS_HASH = bytes(64)
COMMITMENT_BYTES = 64
SALT_BYTES = 32
MAX_ENTRY_BYTES = 1024
MAX_DISCLOSURE_BYTES = (1 << 16) - 1
"""A disclosure stands behind a 16-bit length in an exported bundle."""
MAX_PAYLOAD_BYTES = 1 << 15

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENTRY_TYPES = (int, int, str, bytes, bytes)
_DISCLOSURE_TYPES = (bytes, str, dict)


@dataclass(frozen=True)
class AuditEntry:
    """One entry: its index from 0, microseconds since 1970 (UTC), kind, commitment (64 bytes), the hash before it."""

    index: int
    occurred_at_microseconds: int
    kind: str
    commitment: bytes
    previous_hash: bytes

    def to_bytes(self) -> bytes:
        """Return the canonical bytes. Raises `ValueError` when they are longer than `MAX_ENTRY_BYTES`."""
        data = encode([self.index, self.occurred_at_microseconds, self.kind, self.commitment, self.previous_hash])
        if len(data) > MAX_ENTRY_BYTES:
            raise ValueError(f"entry {self.index} has {len(data)} bytes, more than {MAX_ENTRY_BYTES}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "AuditEntry":
        """Read canonical bytes. Raises `Refusal("malformed-message")`."""
        members = decode(data, what="audit entry", maximum_bytes=MAX_ENTRY_BYTES)
        if not isinstance(members, list) or [type(member) for member in members] != list(_ENTRY_TYPES):
            raise Refusal("malformed-message", "An audit entry is [index, time, kind, commitment, previous hash].")
        if (len(members[3]), len(members[4])) != (COMMITMENT_BYTES, len(GENESIS_HASH)):
            raise Refusal("malformed-message", "Commitment and previous hash of an audit entry are 64 bytes each.")
        return cls(*members)


@dataclass(frozen=True)
class Disclosure:
    """What an entry commits to: 32 random bytes, the actor, and the payload that the kind's sentence tells."""

    salt: bytes
    actor: str
    payload: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes. Raises `Refusal("malformed-message")` where they are too long."""
        return disclosure_bytes(self.salt, self.actor, encode_payload(self.payload))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Disclosure":
        """Read canonical bytes. Raises `Refusal("malformed-message")`."""
        members = decode(data, what="audit disclosure", maximum_bytes=MAX_DISCLOSURE_BYTES)
        if not isinstance(members, list) or [type(member) for member in members] != list(_DISCLOSURE_TYPES):
            raise Refusal("malformed-message", "An audit disclosure is [salt, actor, payload].")
        if len(members[0]) != SALT_BYTES:
            raise Refusal("malformed-message", f"The salt of an audit disclosure is {SALT_BYTES} bytes.")
        return cls(*members)


def disclosure_bytes(salt: bytes, actor: str, payload_bytes: bytes) -> bytes:
    """Return the canonical bytes of a disclosure whose payload is encoded already (`encode_payload`).

    Raises `Refusal("malformed-message")` where they are longer than `MAX_DISCLOSURE_BYTES`.
    """
    data = _ARRAY_OF_THREE + encode(salt) + encode(actor) + payload_bytes
    if len(data) > MAX_DISCLOSURE_BYTES:
        raise Refusal("malformed-message", f"An audit disclosure has at most {MAX_DISCLOSURE_BYTES} bytes.")
    return data


_ARRAY_OF_THREE = b"\x83"  # RFC 8949 section 3.1: major type 4, three elements


def commitment(disclosure: bytes) -> bytes:
    """Return the 64-byte commitment to a disclosure's canonical bytes."""
    return digest("audit disclosure", disclosure)


def entry_hash(data: bytes) -> bytes:
    """Return the 64-byte hash of an entry's canonical bytes."""
    return digest("audit entry", data)


def to_microseconds(moment: datetime) -> int:
    """Return an aware time as microseconds since 1970 (UTC), without rounding."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def encode_payload(payload: dict[str, Any]) -> bytes:
    """Return the canonical bytes of a payload.

    Raises `Refusal("malformed-message")` for values that deterministic CBOR of QF/1 does not carry and
    for more than `MAX_PAYLOAD_BYTES`.
    """
    data = encode(payload)
    decode(data, what="audit payload", maximum_bytes=MAX_PAYLOAD_BYTES)
    return data
