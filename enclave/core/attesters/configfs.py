"""Report entries of configfs-tsm, the kernel's own interface to SEV-SNP and TDX guests
(Documentation/ABI/testing/configfs-tsm-report; drivers/virt/coco/tsm.c; fs/configfs/file.c).

What matters here of configfs: a binary attribute takes what was written when its descriptor is
closed, and ignores whether that went well; an attribute is read from the driver at the first read
of a descriptor and from memory afterwards. So each descriptor serves one write or one reading.
"""

import os
from pathlib import Path

REPORTS = Path("/sys/kernel/config/tsm/report")


class ReportEntries:
    """The directory of entries; everything raises `OSError` as the kernel does."""

    def __init__(self, path: Path = REPORTS) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the names of all entries, of other programs too."""
        return sorted(entry.name for entry in self._path.iterdir())

    def create(self, name: str) -> None:
        """Make an entry, which the kernel fills with attributes."""
        (self._path / name).mkdir(mode=0o700)

    def remove(self, name: str) -> None:
        """Remove an entry with its attributes."""
        (self._path / name).rmdir()

    def open(self, name: str, attribute: str, flags: int) -> int:
        """Return a descriptor of an entry's attribute."""
        return os.open(self._path / name / attribute, flags | os.O_CLOEXEC)

    def read(self, descriptor: int) -> bytes:
        """Return everything from the descriptor's first reading on, and close it."""
        try:
            return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b""))
        finally:
            os.close(descriptor)

    def write(self, descriptor: int, content: bytes) -> None:
        """Write the content, which the kernel takes as the descriptor closes."""
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
