"""Signed structures: COSE_Sign1 (RFC 9052 section 4.2) with ML-DSA (IANA COSE algorithms -48 to -50).

Everything signed in QF/1 is one `COSE_Sign1` array, untagged, whose payload is a deterministic CBOR
map and whose `external_aad` is the label of its purpose framed with what it is bound to. The
protected header holds exactly `alg` (1) and `kid` (4); the unprotected header is empty.
"""

from dataclasses import dataclass
from typing import Any

from qflare_protocol import pqc
from qflare_protocol.encoding import decode, digest, encode, frame, label
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes

FINGERPRINT_BYTES = 32

_ALG, _KID = 1, 4


def key_fingerprint(algorithm: str, public: bytes) -> bytes:
    """Return the 32-byte fingerprint by which a public key is named in tokens, rosters and `kid`."""
    return digest("key fingerprint", algorithm.encode(), public)[:FINGERPRINT_BYTES]


@dataclass(frozen=True)
class Signer:
    """A signature key that can sign; the private key never shows in `repr`."""

    algorithm: str
    private: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"Signer({self.algorithm}, {self.fingerprint.hex()[:16]})"

    @property
    def fingerprint(self) -> bytes:
        """The 32-byte key fingerprint."""
        return key_fingerprint(self.algorithm, self.public)

    @property
    def verifier(self) -> "Verifier":
        """The public half."""
        return Verifier(self.algorithm, self.public)


@dataclass(frozen=True)
class Verifier:
    """A public signature key that a peer pins or has registered."""

    algorithm: str
    public: bytes

    @property
    def fingerprint(self) -> bytes:
        """The 32-byte key fingerprint."""
        return key_fingerprint(self.algorithm, self.public)


def sign1(signer: Signer, payload: Any, *, purpose: str, bound_to: bytes = b"") -> bytes:
    """Sign a payload map for one purpose, bound to other bytes (a transcript hash, say) where given."""
    algorithm = pqc.signature(signer.algorithm)
    protected = encode({_ALG: algorithm.cose_algorithm, _KID: signer.fingerprint})
    body = encode(payload)
    signature = algorithm.sign(signer.private, _to_be_signed(protected, body, purpose, bound_to))
    return encode([protected, {}, body, signature])


def verify1(
    verifier: Verifier, signed: bytes, *, purpose: str, bound_to: bytes = b"", maximum_bytes: int = 1 << 20
) -> Any:
    """Return the payload of a structure that this key signed for this purpose.

    Raises `Refusal`: "malformed-message" for other structures, "invalid-signature" for another key,
    algorithm, purpose, binding or content.
    """
    header, protected, body, signature = _parts(signed, maximum_bytes)
    algorithm = pqc.signature(verifier.algorithm)
    if header != {_ALG: algorithm.cose_algorithm, _KID: verifier.fingerprint}:
        raise Refusal("invalid-signature", "The structure is signed by another key or algorithm than expected.")
    algorithm.verify(verifier.public, _to_be_signed(protected, body, purpose, bound_to), signature)
    return decode(body, what=f"{purpose} payload", maximum_bytes=maximum_bytes)


def unverified_payload(signed: bytes, *, purpose: str, maximum_bytes: int = 1 << 20) -> Any:
    """Return the payload before its signer is known, only to look the signer up; then `verify1`."""
    _, _, body, _ = _parts(signed, maximum_bytes)
    return decode(body, what=f"{purpose} payload", maximum_bytes=maximum_bytes)


def claimed_signer(signed: bytes, *, maximum_bytes: int = 1 << 20) -> bytes:
    """Return the fingerprint of the key that a structure names as its signer: to look that key up; then `verify1`."""
    header, _, _, _ = _parts(signed, maximum_bytes)
    if not isinstance(header, dict) or _KID not in header:
        raise Refusal("malformed-message", "The protected header must name the signing key.")
    return exact_bytes(header[_KID], FINGERPRINT_BYTES, what="key fingerprint")


def _parts(signed: bytes, maximum_bytes: int) -> tuple[Any, bytes, bytes, bytes]:
    parts = decode(signed, what="signed structure", maximum_bytes=maximum_bytes)
    if not isinstance(parts, list) or len(parts) != 4 or parts[1] != {}:
        raise Refusal("malformed-message", "A signed structure is a COSE_Sign1 array with an empty unprotected header.")
    protected, _, body, signature = parts
    if not all(isinstance(part, bytes) for part in (protected, body, signature)):
        raise Refusal("malformed-message", "The members of a COSE_Sign1 array are byte strings.")
    # Read before the signer is known: a broken header is refused alike whoever is named in the payload.
    return decode(protected, what="protected header"), protected, body, signature


def _to_be_signed(protected: bytes, body: bytes, purpose: str, bound_to: bytes) -> bytes:
    return encode(["Signature1", protected, frame(label(purpose), bound_to), body])
