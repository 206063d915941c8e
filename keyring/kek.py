"""The key encryption key (KEK), kept outside the database: provider `file`.

The setting `QFLARE_KEK_FILE` names a file of 32 random bytes that only its owner may read. It is
made on first use; whoever has it and the database can read every secret at rest.
"""

import os
import secrets
import stat
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from qflare_protocol.encoding import digest

KEK_BYTES = 32
KEK_ID_BYTES = 16


@dataclass(frozen=True)
class Kek:
    """A key encryption key and the 16-byte id by which envelopes name it."""

    id: bytes
    key: bytes = field(repr=False)


def current_kek() -> Kek:
    """Return the KEK, made on first use and read once per process.

    Raises `ImproperlyConfigured` when the file cannot be made or read, may be read by others or does
    not hold 32 bytes.
    """
    return _kek_at(Path(settings.QFLARE_KEK_FILE))


@cache
def _kek_at(path: Path) -> Kek:
    try:
        if not path.exists():
            _publish_once(path, secrets.token_bytes(KEK_BYTES))
        key = _read_private(path)
    except OSError as error:
        raise ImproperlyConfigured(f"The KEK file {path} cannot be used: {error.strerror}.") from error
    if len(key) != KEK_BYTES:
        raise ImproperlyConfigured(f"The KEK file {path} must hold {KEK_BYTES} bytes; restore it from its backup.")
    return Kek(id=digest("kek id", key)[:KEK_ID_BYTES], key=key)


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ImproperlyConfigured(f"The KEK file {path} has mode {mode:04o}; run chmod 600 on it.")
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
