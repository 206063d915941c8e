"""Entries of the audit log: their canonical bytes, the hash chain and what a leaf of the tree is.

An entry is the deterministic CBOR array [index, occurred_at, actor, kind, payload, previous_hash].
Its hash is SHA3-512 under the label "audit entry" and is the `previous_hash` of the next entry; the
same bytes are the leaf data of the Merkle tree. The first entry follows 64 zero bytes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from qflare_protocol.encoding import decode, digest, encode
from qflare_protocol.errors import Refusal

GENESIS_HASH = bytes(64)
MAX_ENTRY_BYTES = (1 << 16) - 1
"""An entry stands behind a 16-bit length in a C2SP entry bundle."""
MAX_PAYLOAD_BYTES = 1 << 15

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES = (int, int, str, str, dict, bytes)


@dataclass(frozen=True)
class AuditEntry:
    """One entry: its index from 0, microseconds since 1970 (UTC), actor, kind, payload and the hash before it."""

    index: int
    occurred_at_microseconds: int
    actor: str
    kind: str
    payload: dict[str, Any]
    previous_hash: bytes

    def to_bytes(self) -> bytes:
        """Return the canonical bytes. Raises `ValueError` when they are longer than `MAX_ENTRY_BYTES`."""
        members = [self.index, self.occurred_at_microseconds, self.actor, self.kind, self.payload, self.previous_hash]
        data = encode(members)
        if len(data) > MAX_ENTRY_BYTES:
            raise ValueError(f"entry {self.index} has {len(data)} bytes, more than {MAX_ENTRY_BYTES}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "AuditEntry":
        """Read canonical bytes. Raises `Refusal("malformed-message")`."""
        members = decode(data, what="audit entry", maximum_bytes=MAX_ENTRY_BYTES)
        if not isinstance(members, list) or [type(member) for member in members] != list(_TYPES):
            raise Refusal("malformed-message", "An audit entry is [index, time, actor, kind, payload, previous hash].")
        if len(members[5]) != len(GENESIS_HASH):
            raise Refusal("malformed-message", "The previous hash of an audit entry is 64 bytes.")
        return cls(*members)


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
