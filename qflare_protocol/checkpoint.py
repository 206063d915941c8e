"""Checkpoints of the log: C2SP tlog-checkpoint notes with an ML-DSA-44 cosignature by the log's key.

A checkpoint is three lines: origin, tree size, root in base64. It is followed by an empty line and
signature lines `— <key name> base64(key id || timestamp || signature)` (C2SP signed-note and
tlog-cosignature, signature type 0x06). The key name is the origin. What is signed is not the text
but the `cosigned_message` structure of tlog-cosignature, which leaves extension lines out; a
checkpoint with extension lines is therefore refused.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.merkle import HASH_BYTES

ALGORITHM = "ML-DSA-44"
MAX_NOTE_BYTES = 1 << 16
_SIGNATURE_TYPE = b"\x06"
_KEY_ID_BYTES, _TIMESTAMP_BYTES = 4, 8
_MAX_INTEGER = (1 << 63) - 1
_DASH = "\N{EM DASH} "


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: the log's origin, the number of leaves and the 32-byte RFC 6962 root."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return the note body, three lines with a final newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a note body; what would not be formatted the same way again is refused.

        Raises `Refusal("malformed-message")`.
        """
        lines = text.split("\n")
        if len(lines) != 4 or not (lines[1].isascii() and lines[1].isdigit() and len(lines[1]) < 20):
            raise _malformed("A checkpoint is three lines: origin, tree size and root.")
        checkpoint = cls(check_origin(lines[0]), int(lines[1]), _from_base64(lines[2]))
        if checkpoint.to_text() != text or len(checkpoint.root) != HASH_BYTES or checkpoint.size > _MAX_INTEGER:
            raise _malformed("The checkpoint is not in its one canonical form.")
        return checkpoint


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint whose signature has been verified, and when it was signed (POSIX seconds)."""

    checkpoint: Checkpoint
    timestamp: int


def check_origin(origin: str) -> str:
    """Return the origin if it can also be a key name (C2SP signed-note). Raises `Refusal("malformed-message")`."""
    printable = origin.isprintable() and not any(character.isspace() or character == "+" for character in origin)
    if not printable or not 0 < len(origin.encode()) < 256:
        raise _malformed("An origin is 1 to 255 bytes of printable text without spaces or plus signs.")
    return origin


def sign_checkpoint(signer: Signer, checkpoint: Checkpoint, timestamp: int) -> str:
    """Return the note: the checkpoint with one cosignature by the log at that time (POSIX seconds).

    Raises `ValueError` for a key that is not ML-DSA-44 or a time outside 1 to 2^63 - 1.
    """
    if signer.algorithm != ALGORITHM or not 0 < timestamp <= _MAX_INTEGER:
        raise ValueError("a checkpoint is signed with ML-DSA-44 at a positive time")
    check_origin(checkpoint.origin)
    return f"{checkpoint.to_text()}\n{cosign_as_witness(signer, checkpoint.origin, checkpoint, timestamp)}"


def verify_checkpoint(note: str, verifier: Verifier, origin: str) -> SignedCheckpoint:
    """Return the checkpoint of this log that this key signed; signatures of other keys are ignored.

    Raises `Refusal`: "malformed-message" for another form, "proof-refused" for another log's
    checkpoint, "invalid-signature" where the key has not signed it.
    """
    body, blobs = _parts(note, origin, key_id(origin, verifier))
    checkpoint = Checkpoint.parse(body)
    if checkpoint.origin != origin:
        raise Refusal("proof-refused", f"The checkpoint is of the log {checkpoint.origin}, not of {origin}.")
    if len(blobs) != 1:
        raise Refusal("invalid-signature", "The checkpoint does not carry exactly one signature by the log's key.")
    return _verified(checkpoint, blobs[0], verifier, origin)


def _verified(checkpoint: Checkpoint, blob: bytes, verifier: Verifier, name: str) -> SignedCheckpoint:
    timestamp = int.from_bytes(blob[:_TIMESTAMP_BYTES], "big")
    message = _cosigned_message(checkpoint, timestamp, name)
    pqc.signature(ALGORITHM).verify(verifier.public, message, blob[_TIMESTAMP_BYTES:])
    return SignedCheckpoint(checkpoint, timestamp)


def verify_cosigned_by(note: str, verifier: Verifier, name: str) -> SignedCheckpoint:
    """Return the checkpoint that a witness of that key name cosigned. Raises `Refusal` as `verify_checkpoint`."""
    body, blobs = _parts(note, name, key_id(name, verifier))
    checkpoint = Checkpoint.parse(body)
    if len(blobs) != 1:
        raise Refusal("invalid-signature", "The checkpoint does not carry exactly one signature by the witness.")
    return _verified(checkpoint, blobs[0], verifier, name)


def cosign_as_witness(signer: Signer, name: str, checkpoint: Checkpoint, timestamp: int) -> str:
    """Return a witness's signature line for a checkpoint (C2SP tlog-cosignature, ML-DSA-44)."""
    signature = pqc.signature(ALGORITHM).sign(signer.private, _cosigned_message(checkpoint, timestamp, name))
    blob = key_id(name, signer.verifier) + timestamp.to_bytes(_TIMESTAMP_BYTES, "big") + signature
    return f"{_DASH}{check_origin(name)} {base64.b64encode(blob).decode('ascii')}\n"


def key_id(name: str, verifier: Verifier) -> bytes:
    """Return the 4-byte key id of signed-note for an ML-DSA-44 cosignature key of that name."""
    return hashlib.sha256(name.encode() + b"\n" + _SIGNATURE_TYPE + verifier.public).digest()[:_KEY_ID_BYTES]


def format_verifier_key(origin: str, verifier: Verifier) -> str:
    """Return the signed-note verifier key `<name>+<key id in hex>+<base64 of type and public key>`."""
    material = base64.b64encode(_SIGNATURE_TYPE + verifier.public).decode("ascii")
    return f"{check_origin(origin)}+{key_id(origin, verifier).hex()}+{material}"


def parse_verifier_key(text: str) -> tuple[str, Verifier]:
    """Return (origin, verifier) of a verifier key. Raises `Refusal`: "malformed-message", "invalid-key"."""
    name, _, rest = text.strip().partition("+")
    material = _from_base64(rest.partition("+")[2])
    if material[:1] != _SIGNATURE_TYPE:
        raise _malformed("The verifier key is not of the signature type 0x06 (ML-DSA-44 cosignature).")
    verifier = Verifier(ALGORITHM, pqc.signature(ALGORITHM).check_public_key(material[1:]))
    if format_verifier_key(name, verifier) != text.strip():
        raise _malformed("The verifier key does not match its own key id.")
    return name, verifier


def _cosigned_message(checkpoint: Checkpoint, timestamp: int, name: str) -> bytes:
    """Return the `cosigned_message` of tlog-cosignature for a checkpoint cosigned under a key name."""
    signer, origin = (len(text.encode()).to_bytes(1, "big") + text.encode() for text in (name, checkpoint.origin))
    start, end = bytes(8), checkpoint.size.to_bytes(8, "big")
    return b"subtree/v1\n\0" + signer + timestamp.to_bytes(8, "big") + origin + start + end + checkpoint.root


def _parts(note: str, name: str, wanted: bytes) -> tuple[str, list[bytes]]:
    """Return the note body and what follows the key id in the signature lines of the wanted key."""
    if len(note) > MAX_NOTE_BYTES or not note.endswith("\n"):
        raise _malformed(f"A signed checkpoint ends with a newline and has at most {MAX_NOTE_BYTES} bytes.")
    body, separator, signatures = note.rpartition("\n\n")
    lines = signatures.removesuffix("\n").split("\n")
    if not separator or not all(line.startswith(_DASH) and line.count(" ") == 2 for line in lines):
        raise _malformed("A signed checkpoint is a text, an empty line and signature lines.")
    named = [_from_base64(line.split(" ")[2]) for line in lines if line.split(" ")[1] == name]
    return body + "\n", [blob[_KEY_ID_BYTES:] for blob in named if blob[:_KEY_ID_BYTES] == wanted]


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _malformed("A part of the note is not valid base64.") from error


def _malformed(sentence: str) -> Refusal:
    return Refusal("malformed-message", sentence)
