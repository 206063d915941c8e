"""The files of a host that a backup holds: KEKs, and what the enclave host keeps beyond a round."""

import os
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from enclave.courier import initialise_host_directory
from keyring.kek_file import kek_files
from qflare_site.backup.archive import BackupError
from qflare_site.data_dir import make_private_folder

KEK, ENCLAVE = "kek", "enclave"
_OF_A_HOST = ("attestation.key", "attestation.pub", "endorsements/*", "federations/*.key")
"""Not the rounds' keys: one without its record could be asked for a second decision; those rounds begin anew."""


def kept_files() -> Iterator[tuple[str, Path]]:
    """Yield the name within a backup and the path of every file. Raises `BackupError` for one that is not readable."""
    if settings.QFLARE_KEK_PROVIDER == "file":
        for version, path in kek_files(Path(settings.QFLARE_KEK_FILE)):
            yield f"{KEK}/{version}", path
    folder = Path(settings.QFLARE_ENCLAVE_DIR)
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        raise BackupError(f"{folder} belongs to the enclave's user; run the backup as root or as that user.")
    for pattern in _OF_A_HOST:
        for path in sorted(folder.glob(pattern)):
            yield f"{ENCLAVE}/{path.relative_to(folder).as_posix()}", path


def put_back(name: str, content: bytes) -> None:
    """Write a file where `kept_files` found it. Raises `BackupError` where another one stands there."""
    path = _path_of(name)
    if path.exists():
        if path.read_bytes() != content:
            raise BackupError(f"{path} exists and is another one; restore on a host without keys of its own.")
        return
    make_private_folder(path.parent)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if name.startswith(f"{ENCLAVE}/") and os.geteuid() == 0:
        for owned in (path, path.parent):
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
    if kind == ENCLAVE and any(Path(rest).match(pattern) for pattern in _OF_A_HOST) and ".." not in Path(rest).parts:
        return Path(settings.QFLARE_ENCLAVE_DIR) / rest
    raise BackupError(f"The backup holds a file that no host has: {name}.")
