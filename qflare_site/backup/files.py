"""The files of a host that a backup holds: KEKs, and what the enclave host keeps beyond a round."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from enclave.courier import initialise_host_directory
from keyring.kek_file import kek_files
from qflare_site.backup.archive import BackupError
from qflare_site.data_dir import make_private_folder

KEK, ENCLAVE = "kek", "enclave"
_OF_A_HOST = re.compile(
    r"attestation\.(key|pub)|endorsements/(leaf|intermediate|root)\.der|endorsements/collateral\.json"
    r"|federations/[0-9a-f]{32}\.key"
)
"""Not the rounds' keys: one without its record could be asked for a second decision; those rounds begin anew."""


def read_files() -> dict[str, bytes]:
    """Return the content of every file by its name within a backup. Raises `BackupError` for one that is not readable.

    A KEK that a rotation destroys meanwhile is left out.
    """
    found = {}
    for name, path in _kept_files():
        with suppress(FileNotFoundError):
            found[name] = path.read_bytes()
    return found


def _kept_files() -> Iterator[tuple[str, Path]]:
    if settings.QFLARE_KEK_PROVIDER == "file":
        for version, path in kek_files(Path(settings.QFLARE_KEK_FILE)):
            yield f"{KEK}/{version}", path
    folder = Path(settings.QFLARE_ENCLAVE_DIR)
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        raise BackupError(f"{folder} belongs to the enclave's user; run the backup as root or as that user.")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _OF_A_HOST.fullmatch(name) and path.is_file():
            yield f"{ENCLAVE}/{name}", path


def put_back(name: str, content: bytes) -> None:
    """Write a file where `read_files` found it, whole or not at all. Raises `BackupError` where another one stands."""
    path = _path_of(name)
    if path.exists():
        if path.read_bytes() != content:
            raise BackupError(f"{path} exists and is another one; restore on a host without keys of its own.")
        return
    make_private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    if name.startswith(f"{ENCLAVE}/") and os.geteuid() == 0:
        for owned in (path, path.parent):  # the name is one of a few: the folder is the enclave's
            os.chown(owned, settings.QFLARE_ENCLAVE_UID, settings.QFLARE_ENCLAVE_GID)


def complete_enclave_directory() -> None:
    """Let the enclave host's directory be whole and owned by its user, where a backup brought any of it."""
    folder = Path(settings.QFLARE_ENCLAVE_DIR)
    if folder.exists():
        initialise_host_directory(folder, settings.QFLARE_ENCLAVE_UID, settings.QFLARE_ENCLAVE_GID)


def _path_of(name: str) -> Path:
    kind, _, rest = name.partition("/")
    if kind == KEK and rest.isdigit():
        base = Path(settings.QFLARE_KEK_FILE)
        return base if rest == "1" else base.with_name(f"{base.name}.{rest}")
    if kind == ENCLAVE and _OF_A_HOST.fullmatch(rest):
        return Path(settings.QFLARE_ENCLAVE_DIR) / rest
    raise BackupError(f"The backup holds a file that no host has: {name}.")
