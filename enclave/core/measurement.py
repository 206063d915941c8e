"""The code measurement: which sources, interpreter and libraries run in the sealed process.

In the software tier the process measures itself, so the measurement tells devices and auditors
which release an honest host runs; it does not bind a host that lies.
"""

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from qflare_protocol.encoding import digest, frame

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("qflare_protocol", "enclave/core")
LIBRARIES = ("blake3", "cbor2", "cryptography", "numpy")


@cache
def measure(root: Path = ROOT) -> bytes:
    """Return the 64-byte measurement: SHA3-512 over sorted (path, digest) and sorted (name, version)."""
    return digest("code measurement", _sources(root), _platform())


def source_files(root: Path = ROOT) -> list[Path]:
    """Return every measured source file, sorted by its path below the root."""
    files = {file for package in PACKAGES for file in (root / package).rglob("*.py")}
    return sorted(files | {root / "enclave/__init__.py"}, key=lambda file: file.relative_to(root).as_posix())


def _sources(root: Path) -> bytes:
    rows = []
    for file in source_files(root):
        rows += [file.relative_to(root).as_posix().encode(), hashlib.sha3_512(file.read_bytes()).digest()]
    return frame(*rows)


def _platform() -> bytes:
    python = f"{platform.python_implementation()} {'.'.join(map(str, sys.version_info[:3]))}"
    return frame(python.encode(), *(f"{name} {version(name)}".encode() for name in LIBRARIES))
