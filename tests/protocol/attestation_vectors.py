"""Real evidence of real hardware, outside the project; see `ORIGIN.md` beside it."""

import os
from pathlib import Path

import pytest

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "attestation"


def vector(name):
    """Return the bytes of a file; skips the test where the folder is not there."""
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"vectors are not at {path}")
    return path.read_bytes()


def flipped(data, bit):
    """Return the data with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
