"""The folder layout of an exported log: C2SP tlog-tiles, with the log's public key beside it.

`checkpoint` is the signed note, `tile/<L>/<N>` hold up to 256 hashes of 32 bytes of tree level 8 L,
`tile/entries/<N>` up to 256 entries, each behind its length as 16 bits big-endian, `disclosures/<N>` what
these commit to, in the same frames, empty where it was erased. The last tile of a level may be partial
and is then named `<N>.p/<width>`. `checkpoints` holds all signed notes in their order, `log.vkey` the signed-note
verifier key that made the last one, and `log.vkeys` all keys there were, the first one first.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from qflare_protocol.errors import Refusal

TILE_WIDTH = 256
TILE_HEIGHT = 8
CHECKPOINT_FILE = "checkpoint"
CHECKPOINTS_FILE = "checkpoints"
KEY_FILE = "log.vkey"
KEYS_FILE = "log.vkeys"
ENTRIES = "entries"
DISCLOSURES = "disclosures"


def tile_path(level: int | str, index: int, width: int) -> PurePosixPath:
    """Return the path of a tile, or with the level `ENTRIES` of an entry bundle; x001/x234/067 for 1234067."""
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    path = PurePosixPath("tile", str(level), *groups)
    return path if width == TILE_WIDTH else path.with_name(f"{path.name}.p") / str(width)


def disclosures_path(index: int, width: int) -> PurePosixPath:
    """Return the path of the disclosures of an entry bundle."""
    return PurePosixPath(DISCLOSURES, *tile_path(ENTRIES, index, width).parts[2:])


def tile_levels(size: int) -> range:
    """Return the tile levels that a tree of `size` leaves has."""
    return range((size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT)


def tiles(size: int, level: int) -> Iterator[tuple[int, int]]:
    """Yield (index, width) of every tile of a level for a tree of `size` leaves."""
    full, rest = divmod(size >> (TILE_HEIGHT * level), TILE_WIDTH)
    for index in range(full):
        yield index, TILE_WIDTH
    if rest:
        yield full, rest


def frame_entry(data: bytes) -> bytes:
    """Return an entry as it stands in a bundle. Raises `OverflowError` above 65,535 bytes."""
    return len(data).to_bytes(2, "big") + data


def split_bundle(bundle: bytes, width: int) -> list[bytes]:
    """Return the `width` entries of a bundle. Raises `Refusal("malformed-message")` for any other number."""
    entries: list[bytes] = []
    position = 0
    while position < len(bundle) and len(entries) <= width:
        begin = position + 2
        position = begin + int.from_bytes(bundle[position:begin], "big")
        entries.append(bundle[begin:position])
    if position != len(bundle) or len(entries) != width:
        raise Refusal("malformed-message", f"An entry bundle does not hold exactly {width} entries.")
    return entries
