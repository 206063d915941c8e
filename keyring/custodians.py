"""What the custodians of an escrow hold: key pairs, and the shares that are sealed to them.

Nothing here needs a database. A custodian's key is an HPKE key pair (`qflare_protocol.hpke`) in a file
of its own; a share is a SLIP-39 mnemonic, sealed to that key and bound to the escrow, the custodian's
name and the threshold. An opened share is one line: the escrow's id and the words.
"""

import base64
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from keyring.shares import EscrowError
from qflare_protocol import hpke
from qflare_protocol.cose import key_fingerprint
from qflare_protocol.encoding import frame, label
from qflare_protocol.errors import Refusal

ALGORITHM = "MLKEM1024-P384"
MAX_FILE_BYTES = 16 * 1024

_PUBLIC, _PRIVATE, _SHARE = "escrow custodian public key", "escrow custodian private key", "sealed escrow share"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Custodian:
    """Somebody who keeps one share."""

    name: str
    public_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EscrowError(f"{self.name!r} is no name for a custodian: 1 to 64 letters, digits, dots and dashes.")

    @property
    def fingerprint(self) -> bytes:
        """The 32 bytes by which the custodian's key is named."""
        return key_fingerprint(ALGORITHM, self.public_key)


@dataclass(frozen=True)
class OpenedShare:
    """A share as its custodian hands it in."""

    escrow_id: uuid.UUID
    words: str = field(repr=False)

    def to_text(self) -> str:
        """Return the line that `read_opened_share` reads."""
        return f"{self.escrow_id} {self.words}"


def make_custodian_key() -> tuple[str, str]:
    """Make a key pair; return the texts of the private and of the public file."""
    pair = hpke.generate()
    return _to_json(_PRIVATE, private_key=pair.private), _to_json(_PUBLIC, public_key=pair.public)


def read_custodian(name: str, public_file: str) -> Custodian:
    """Return a custodian from the text of its public file. Raises `EscrowError`."""
    public = _member(_from_json(public_file, _PUBLIC), "public_key")
    try:
        return Custodian(name, hpke.check_public_key(public))
    except Refusal as refusal:
        raise EscrowError(f"The public key of {name} cannot be used: {refusal.detail}") from refusal


def read_private_key(private_file: str) -> bytes:
    """Return the private key from the text of its file. Raises `EscrowError`."""
    private = _member(_from_json(private_file, _PRIVATE), "private_key")
    try:
        hpke.public_key(private)
    except Refusal as refusal:
        raise EscrowError(f"The private key cannot be used: {refusal.detail}") from refusal
    return private


def seal_share(custodian: Custodian, escrow_id: uuid.UUID, threshold: int, words: str) -> str:
    """Return the text of a custodian's file: a share that only its private key opens."""
    info = _info(escrow_id, custodian.name, custodian.fingerprint, threshold)
    return _to_json(
        _SHARE,
        escrow_id=str(escrow_id),
        custodian=custodian.name,
        fingerprint=custodian.fingerprint.hex(),
        threshold=threshold,
        sealed_share=hpke.seal(custodian.public_key, words.encode("ascii"), info=info),
    )


def open_share(share_file: str, private_file: str) -> OpenedShare:
    """Open a sealed share with its custodian's private file. Raises `EscrowError`."""
    members = _from_json(share_file, _SHARE)
    private = _member(_from_json(private_file, _PRIVATE), "private_key")
    try:
        escrow_id, threshold = uuid.UUID(members["escrow_id"]), int(members["threshold"])
        custodian = Custodian(members["custodian"], hpke.public_key(private))
        info = _info(escrow_id, custodian.name, custodian.fingerprint, threshold)
        words = hpke.open_sealed(private, _member(members, "sealed_share"), info=info)
    except Refusal as refusal:
        raise EscrowError(f"The share does not open with this key: {refusal.detail}") from refusal
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EscrowError("The file is not a sealed escrow share.") from error
    return OpenedShare(escrow_id, words.decode("ascii"))


def read_opened_share(line: str) -> OpenedShare:
    """Read an opened share from its line. Raises `EscrowError`, which repeats none of the words."""
    escrow_id, _, words = " ".join(line.split()).partition(" ")
    try:
        return OpenedShare(uuid.UUID(escrow_id), words.lower())
    except ValueError:
        raise EscrowError("An opened share is one line: the escrow's id, then the words.") from None


def _info(escrow_id: uuid.UUID, name: str, fingerprint: bytes, threshold: int) -> bytes:
    return frame(label("escrow share"), escrow_id.bytes, name.encode(), fingerprint, threshold.to_bytes(1, "big"))


def _to_json(form: str, **members: Any) -> str:
    shown = {name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in members.items()}
    return json.dumps({"qflare": form, "algorithm": ALGORITHM, **shown}, indent=1) + "\n"


def _from_json(text: str, form: str) -> dict[str, Any]:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or members.get("qflare") != form or members.get("algorithm") != ALGORITHM:
        raise EscrowError(f"The file is not a QFLARE {form} for {ALGORITHM}.")
    return members


def _member(members: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(members[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise EscrowError(f"The file's {name} is missing or not base64.") from None
