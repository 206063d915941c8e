"""KEK provider `file`: 32 random bytes in a file that only its owner may read.

The setting `QFLARE_KEK_FILE` names the first KEK's file; its successors lie beside it as `<name>.2`,
`<name>.3` and so on. Whoever can read the file and the database can read every secret at rest, so
outside of DEBUG an operator has to acknowledge it with `QFLARE_ACKNOWLEDGE_FILE_KEK=1`.
"""

import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from keyring.kek import KEK_BYTES, KEK_ID_BYTES, NONCE_BYTES, Kek, KekDoesNotOpen, KekError, check_wrapped
from qflare_protocol.encoding import digest


@dataclass(frozen=True)
class FileKek:
    """A KEK that was read from its file for one operation."""

    id: bytes
    place: str
    _key: bytes = field(repr=False)

    def wrap(self, data: bytes, aad: bytes) -> bytes:
        """Encrypt under a random nonce: a KEK wraps a handful of data keys in its life."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._key).encrypt(nonce, data, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt. Raises `KekDoesNotOpen`."""
        wrapped = check_wrapped(wrapped)
        try:
            return AESGCM(self._key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad)
        except InvalidTag as error:
            raise KekDoesNotOpen("The data key is damaged or belongs to another row.") from error


class FileProvider:
    """The KEK files at `QFLARE_KEK_FILE` and beside it; read anew each time, because data keys are kept opened."""

    def __init__(self) -> None:
        self._base = Path(settings.QFLARE_KEK_FILE)

    def keks(self) -> list[Kek]:
        """Read every KEK file, oldest first."""
        _require_acknowledgement()
        return [kek for _, path in kek_files(self._base) if (kek := _read_unless_destroyed(path))]

    def create(self) -> Kek:
        """Write a new KEK file; where several processes race, the first one wins for all."""
        _require_acknowledgement()
        versions = [version for version, _ in kek_files(self._base)]
        path = self._path_of(versions[-1] + 1 if versions else 1)
        try:
            _publish_once(path, secrets.token_bytes(KEK_BYTES))
        except OSError as error:
            raise KekError(f"The KEK file {path} cannot be made: {error.strerror}.") from error
        return _read(path)

    def destroy(self, kek_id: bytes) -> None:
        """Delete a KEK's file. What a disk or a backup still holds of it is out of this program's reach."""
        _require_acknowledgement()
        for _, path in kek_files(self._base):
            kek = _read_unless_destroyed(path)
            if kek is not None and kek.id == kek_id:
                path.unlink(missing_ok=True)
                _sync_folder(path.parent)

    def _path_of(self, version: int) -> Path:
        return self._base if version == 1 else self._base.with_name(f"{self._base.name}.{version}")


def kek_files(base: Path) -> list[tuple[int, Path]]:
    """Return (version, path) of the KEK files there are, oldest first. Raises `KekError`."""
    numbered = re.compile(re.escape(base.name) + r"\.([1-9][0-9]{0,8})")
    try:
        names = [path.name for path in base.parent.iterdir()] if base.parent.exists() else []
    except OSError as error:
        raise KekError(f"The folder {base.parent} of the KEK cannot be used: {error.strerror}.") from error
    found = [(1, base)] if base.name in names else []
    found += [(int(match[1]), base.with_name(match[0])) for match in map(numbered.fullmatch, names) if match]
    return sorted(found)


def _require_acknowledgement() -> None:
    if not (settings.DEBUG or settings.QFLARE_ACKNOWLEDGE_FILE_KEK):
        raise KekError(
            "The KEK would be a file on this host. Use QFLARE_KEK_PROVIDER=pkcs11, or acknowledge the file with "
            "QFLARE_ACKNOWLEDGE_FILE_KEK=1."
        )


def _read_unless_destroyed(path: Path) -> FileKek | None:
    """Read a KEK that was listed a moment ago, unless a rotation has destroyed it since."""
    try:
        return _read(path)
    except KekError:
        if path.exists():
            raise
        return None


def _read(path: Path) -> FileKek:
    try:
        key = _read_private(path)
    except OSError as error:
        raise KekError(f"The KEK file {path} cannot be used: {error.strerror}.") from error
    if len(key) != KEK_BYTES:
        raise KekError(f"The KEK file {path} must hold {KEK_BYTES} bytes; restore it from its backup.")
    return FileKek(digest("kek id", key)[:KEK_ID_BYTES], str(path), key)


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise KekError(f"The KEK file {path} has mode {mode:04o}; run chmod 600 on it.")
        return file.read(KEK_BYTES + 1)


def _publish_once(path: Path, content: bytes) -> None:
    """Let the file appear complete or not at all; where several processes race, the first one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        return  # another process published first; its key is the one that counts
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
