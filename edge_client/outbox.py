"""The update that a device still has to hand in, kept over crashes and power loss until its receipt has come.

Two files: the sealed update, written piece by piece so that memory stays flat, and beside it the signed
manifest that names its digest. The manifest is written last: without it there is no kept update.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import blake3

from edge_client.storage import sync_folder, write_private_file

MANIFEST, SEALED = "outbox.manifest", "outbox.sealed"


@dataclass(frozen=True)
class KeptUpdate:
    """A sealed update on disk and its signed manifest."""

    manifest: bytes
    path: Path

    @property
    def sealed_bytes(self) -> int:
        """The size of the sealed update."""
        return self.path.stat().st_size

    def open(self) -> IO[bytes]:
        """Open the sealed update for reading."""
        return self.path.open("rb")


class Outbox:
    """At most one update, in the device's home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._manifest, self._sealed = home / MANIFEST, home / SEALED

    def write_sealed(self, pieces: Iterable[bytes]) -> tuple[bytes, int]:
        """Write a sealed update and return its BLAKE3 digest and its size; what was kept before is dropped."""
        self.drop()
        self._sealed.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hasher, size = blake3.blake3(), 0
        descriptor = os.open(self._sealed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                hasher.update(piece)
                file.write(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        return hasher.digest(), size

    def keep(self, manifest: bytes) -> None:
        """Keep the update that was written, under its signed manifest."""
        write_private_file(self._manifest, manifest)

    def kept(self) -> KeptUpdate | None:
        """Return the update whose receipt has not come yet."""
        if not self._manifest.exists():
            return None
        return KeptUpdate(self._manifest.read_bytes(), self._sealed)

    def drop(self) -> None:
        """Forget the kept update: it has its receipt, or its round takes it no more."""
        for path in (self._manifest, self._sealed):
            path.unlink(missing_ok=True)
        if self._manifest.parent.exists():
            sync_folder(self._manifest.parent)
