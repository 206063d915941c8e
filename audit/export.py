"""Writing the log as a C2SP tlog-tiles folder that anybody can check offline with `qflare-verify`."""

import json
from collections.abc import Iterator
from pathlib import Path

from audit.anchoring import ANCHORS_FILE, export_anchors
from audit.exporters import exported_files
from audit.models import Checkpoint, Entry, Tile
from audit.sequencing import last_hash
from audit.services import log_origin
from audit.tree import edge_hashes
from audit.verification import verified_note
from audit.witnesses import WITNESSES_FILE, export_witnesses
from keyring.services import server_verifiers
from qflare_protocol import log_tiles
from qflare_protocol.checkpoint import format_verifier_key
from qflare_protocol.log_tiles import CHECKPOINT_FILE, CHECKPOINTS_FILE, ENTRIES, KEY_FILE, KEYS_FILE, TILE_WIDTH
from qflare_protocol.merkle import HASH_BYTES


def export_log(head: Checkpoint, folder: Path) -> None:
    """Write the log as the checkpoint covers it into a new or empty folder; the checkpoint is written last.

    Raises `FileExistsError` for a folder that holds something already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    previous = last_hash(0)
    for index, width in log_tiles.tiles(head.size, 0):
        previous = _write_entries(folder, index, width, previous)
    for level in log_tiles.tile_levels(head.size)[1:]:
        for index, width in log_tiles.tiles(head.size, level):
            _write(folder / log_tiles.tile_path(level, index, width), _tile_bytes(level, index, width))
    for path, content in exported_files():
        _write(folder / path, content)
    _write_lines(folder / WITNESSES_FILE, export_witnesses(head.size))
    _write_lines(folder / ANCHORS_FILE, export_anchors(head.size))
    _write_notes(folder, head)
    _write_keys(folder, head)
    (folder / CHECKPOINT_FILE).write_text(head.note, encoding="utf-8")


def _write_entries(folder: Path, index: int, width: int, previous: bytes) -> bytes:
    """Write one bundle of entries, that of their disclosures and the tile of their hashes; return the last hash."""
    first = index * TILE_WIDTH
    found = Entry.objects.filter(index__gte=first, index__lt=first + width).order_by("index").select_related("event")
    bundle, disclosures, hashes = bytearray(), bytearray(), bytearray()
    for entry in found:
        bundle += log_tiles.frame_entry(entry.canonical_bytes(previous))
        disclosures += log_tiles.frame_entry(entry.event.disclosure_bytes())
        hashes += bytes(entry.leaf_hash)
        previous = bytes(entry.entry_hash)
    _write(folder / log_tiles.tile_path(ENTRIES, index, width), bundle)
    _write(folder / log_tiles.disclosures_path(index, width), disclosures)
    _write(folder / log_tiles.tile_path(0, index, width), hashes)
    return previous


def _tile_bytes(level: int, index: int, width: int) -> bytes:
    full = Tile.objects.filter(level=level, index=index).values_list("hashes", flat=True).first()
    joined = bytes(full) if full is not None else b"".join(edge_hashes(level, index))
    return joined[: width * HASH_BYTES]


def _write_notes(folder: Path, head: Checkpoint) -> None:
    """Write every note that was ever signed up to the current one, one behind the other."""
    notes = Checkpoint.objects.filter(id__lte=head.pk).order_by("id").values_list("note", flat=True)
    with (folder / CHECKPOINTS_FILE).open("w", encoding="utf-8") as file:
        for note in notes.iterator(chunk_size=1000):
            file.write(note)


def _write_lines(path: Path, lines: Iterator[bytes]) -> None:
    """Write a file line by line; none where there are no lines."""
    first = next(lines, None)
    if first is not None:
        with path.open("wb") as file:
            file.write(first)
            file.writelines(lines)


def _write_keys(folder: Path, head: Checkpoint) -> None:
    """Write the key that signed the head, and all keys up to it, the first one first."""
    origin, keys = log_origin(), server_verifiers("log")
    verifier, _ = verified_note(head.note, origin, keys)
    (folder / KEY_FILE).write_text(format_verifier_key(origin, verifier) + "\n", encoding="utf-8")
    lines = [format_verifier_key(origin, key) + "\n" for key in reversed(keys[keys.index(verifier) :])]
    (folder / KEYS_FILE).write_text("".join(lines), encoding="utf-8")
    about = {"origin": origin, "size": head.size, "key_fingerprint": verifier.fingerprint.hex()}
    (folder / "export.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, content: bytes | bytearray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
