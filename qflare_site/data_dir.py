"""The data directory: one private folder that holds everything a host keeps."""

import os
import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def make_private_folder(path: Path) -> Path:
    """Create a folder (and its parents) that only its owner may enter, and return it.

    A folder that exists keeps its mode; the system checks report one that others can read. Raises
    `ImproperlyConfigured` when the folder cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"The folder {path} cannot be created: {error.strerror}.") from error
    return path


def read_or_create_secret(path: Path) -> str:
    """Return the secret kept in a file of mode 0600, made once from 50 random bytes.

    Several processes may start at once: the file appears complete through a link, so the first one
    wins and the others read what it wrote.
    """
    if not path.exists():
        _publish_once(path, secrets.token_urlsafe(50))
    return path.read_text().strip()


def _publish_once(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass  # another process published first; its secret is the one that counts
    finally:
        draft.unlink()
