"""Proofs that stand alone, as text: an entry's index, its inclusion proof and a checkpoint (C2SP tlog-proof)."""

from base64 import b64encode
from collections.abc import Sequence

HEADER = "c2sp.org/tlog-proof@v1"


def format_proof(index: int, proof: Sequence[bytes], note: str, *, extra: bytes = b"") -> str:
    """Return the proof of entry `index` under a signed note; `extra` is for the reader and is not authenticated."""
    lines = [HEADER]
    if extra:
        lines.append(f"extra {b64encode(extra).decode('ascii')}")
    lines.append(f"index {index}")
    lines += [b64encode(value).decode("ascii") for value in proof]
    return "\n".join(lines) + "\n\n" + note
