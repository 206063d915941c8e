"""The rows that a federation carries from round to round, as signed results name them.

Their content is sealed by the enclave and for it alone; their digests let anybody see that each round
was given what the one before had left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qflare_protocol.encoding import digest, encode


@dataclass(frozen=True)
class CarriedRow:
    """A sealed row: its name, the 32-byte key id of the enclave that made it, and its blob's 32-byte BLAKE3 digest."""

    name: str
    enclave_key_id: bytes
    digest: bytes


def carried_digest(rows: Sequence[CarriedRow]) -> bytes:
    """Return the 64-byte digest of a set of carried rows, in whatever order they come."""
    return digest("carried rows", encode(sorted([row.name, row.enclave_key_id, row.digest] for row in rows)))
