"""Files of a device: written whole or not at all, readable by their owner only."""

import errno
import fcntl
import os
import secrets
from pathlib import Path

from qflare_protocol.errors import Refusal

DISK_IS_FULL = "the device's disk is full"
_HELD: dict[Path, int] = {}


def hold_home(home: Path) -> None:
    """Keep a device's folder to this process until it ends: two would overwrite each other's keys.

    Raises `Refusal("conflict")` while another process holds it.
    """
    if home in _HELD:
        return
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Refusal("conflict", f"Another qflare-edge works with {home}; stop it first.") from error
    _HELD[home] = descriptor


def disk_is_full(error: OSError) -> bool:
    """Return whether the disk, or the share of it that this user may take, has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_private_file(path: Path, data: bytes) -> None:
    """Replace a file's content durably: temporary file, fsync, rename, fsync of the folder; mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and deletions in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
