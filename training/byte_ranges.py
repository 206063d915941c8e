"""Parts of a blob over HTTP (RFC 9110, section 14): one range of a file, or all of it."""

import re
from collections.abc import Iterator
from typing import IO

from qflare_protocol.errors import Refusal

PIECE_BYTES = 1 << 20
_SINGLE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def requested_range(header: str, size: int) -> range | None:
    """Return the positions that a Range header asks for in a body of `size` bytes; None where all of it is due.

    More than one range, and a header that is no range of bytes, ask for all. Raises
    `Refusal("range-not-satisfiable")` for a range that begins behind the end.
    """
    match = _SINGLE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        begin, end = max(0, size - int(last)), size
    elif last and int(last) < int(first):
        return None
    else:
        begin, end = int(first), min(int(last) + 1, size) if last else size
    if begin >= end:
        raise Refusal("range-not-satisfiable", f"The bytes asked for are not among the {size} there are.", size=size)
    return range(begin, end)


def pieces_between(file: IO[bytes], positions: range) -> Iterator[bytes]:
    """Yield a file's bytes at these positions, in pieces of 1 MiB, and close it."""
    with file:
        file.seek(positions.start)
        left = len(positions)
        while left and (piece := file.read(min(left, PIECE_BYTES))):
            left -= len(piece)
            yield piece
