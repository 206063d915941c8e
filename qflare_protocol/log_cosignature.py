"""A device's signature under a checkpoint that it has verified as a continuation of all it has seen.

C2SP tlog-cosignature knows ML-DSA-44 only, and devices of other suites have other keys: this is a signed
structure of QF/1 instead (docs/protocol.md, "Witnessing").
"""

from dataclasses import dataclass

from qflare_protocol.cose import Signer, Verifier, sign1, verify1
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.merkle import HASH_BYTES

PURPOSE = "log cosignature"
MAX_BYTES = 16 * 1024
_MEMBERS = frozenset({"origin", "size", "root"})


@dataclass(frozen=True)
class CosignedCheckpoint:
    """What a device vouches for: that it saw this log with this root at this size."""

    origin: str
    size: int
    root: bytes


def cosign_checkpoint(signer: Signer, seen: CosignedCheckpoint) -> bytes:
    """Return the device's signature under a checkpoint."""
    payload = {"origin": seen.origin, "size": seen.size, "root": seen.root}
    return sign1(signer, payload, purpose=PURPOSE)


def verify_cosignature(verifier: Verifier, signed: bytes) -> CosignedCheckpoint:
    """Return what this device's key cosigned. Raises `Refusal`: "malformed-message", "invalid-signature"."""
    payload = verify1(verifier, signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES)
    members = require_map(payload, _MEMBERS, PURPOSE)
    if not text_field(members, "origin", 255):
        raise Refusal("malformed-message", "A cosignature names the log's origin.")
    return CosignedCheckpoint(
        text_field(members, "origin", 255), unsigned_field(members, "size"), bytes_field(members, "root", HASH_BYTES)
    )
