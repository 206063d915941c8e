"""Writing the log as a C2SP tlog-tiles folder that anybody can check offline with `qflare-verify`."""

import json
from pathlib import Path

from audit.models import Checkpoint, Entry, TreeNode
from audit.services import log_origin
from audit.verification import verified_note
from keyring.services import server_verifiers
from qflare_protocol import log_tiles
from qflare_protocol.checkpoint import format_verifier_key
from qflare_protocol.log_tiles import CHECKPOINT_FILE, ENTRIES, KEY_FILE, TILE_HEIGHT, TILE_WIDTH


def export_log(head: Checkpoint, folder: Path) -> None:
    """Write the log as the checkpoint covers it into a new or empty folder; the checkpoint is written last.

    Raises `FileExistsError` for a folder that holds something already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    for index, width in log_tiles.tiles(head.size, 0):
        _write_entries(folder, index, width)
    for level in log_tiles.tile_levels(head.size)[1:]:
        for index, width in log_tiles.tiles(head.size, level):
            _write_tile(folder, level, index, width)
    _write_key(folder, head)
    (folder / CHECKPOINT_FILE).write_text(head.note, encoding="utf-8")


def _write_entries(folder: Path, index: int, width: int) -> None:
    """Write one bundle of entries and the tile of their hashes."""
    first = index * TILE_WIDTH
    entries = list(Entry.objects.filter(index__gte=first, index__lt=first + width).order_by("index"))
    bundle = b"".join(log_tiles.frame_entry(entry.canonical_bytes()) for entry in entries)
    _write(folder / log_tiles.tile_path(ENTRIES, index, width), bundle)
    _write(folder / log_tiles.tile_path(0, index, width), b"".join(bytes(entry.leaf_hash) for entry in entries))


def _write_tile(folder: Path, level: int, index: int, width: int) -> None:
    first = index * TILE_WIDTH
    nodes = TreeNode.objects.filter(level=TILE_HEIGHT * level, index__gte=first, index__lt=first + width)
    hashes = nodes.order_by("index").values_list("hash", flat=True)
    _write(folder / log_tiles.tile_path(level, index, width), b"".join(bytes(value) for value in hashes))


def _write_key(folder: Path, head: Checkpoint) -> None:
    origin = log_origin()
    verifier, _ = verified_note(head.note, origin, server_verifiers("log"))
    (folder / KEY_FILE).write_text(format_verifier_key(origin, verifier) + "\n", encoding="utf-8")
    about = {"origin": origin, "size": head.size, "key_fingerprint": verifier.fingerprint.hex()}
    (folder / "export.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
