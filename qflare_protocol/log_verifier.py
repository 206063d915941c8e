"""The offline verifier of an exported log: `qflare-verify DIR [--key FILE|FINGERPRINT]`.

It needs no server, database or trust in either: it recomputes the hash chain and the Merkle tree from
the entries, compares both with the tiles, and the root with the signed checkpoint. It reads each file
once and keeps at most one tile of each level in memory.
"""

import argparse
import hmac
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from qflare_protocol import log_tiles
from qflare_protocol.audit_entry import (
    GENESIS_HASH,
    MAX_DISCLOSURE_BYTES,
    MAX_ENTRY_BYTES,
    AuditEntry,
    Disclosure,
    commitment,
    entry_hash,
)
from qflare_protocol.checkpoint import MAX_NOTE_BYTES, SignedCheckpoint, parse_verifier_key, verify_checkpoint
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.log_tiles import CHECKPOINT_FILE, ENTRIES, KEY_FILE, TILE_HEIGHT, TILE_WIDTH
from qflare_protocol.merkle import HASH_BYTES, CompactTree, Node, leaf_hash

_MAX_BUNDLE_BYTES = TILE_WIDTH * (MAX_ENTRY_BYTES + 2)
_MAX_DISCLOSURES_BYTES = TILE_WIDTH * (MAX_DISCLOSURE_BYTES + 2)
_FINGERPRINT_DIGITS = 64


class LogRefusedError(Exception):
    """The exported log is not what its log signed; the sentence names the file and entry that is wrong."""


@dataclass(frozen=True)
class ExportReport:
    """What was verified: the signed checkpoint, the key that signed it, whether the auditor pinned that key.

    `erased` counts the entries whose disclosure was erased.
    """

    signed: SignedCheckpoint
    verifier: Verifier
    key_was_pinned: bool
    erased: int


def verify_export(folder: Path, pinned: Verifier | bytes | None = None) -> ExportReport:
    """Verify an exported log under a pinned key (or key fingerprint), else under the key in the export.

    Raises `LogRefusedError` at the first thing that is wrong.
    """
    origin, verifier = _read_key(folder)
    if pinned is not None and not _is_pinned(verifier, pinned):
        other = f"the export is signed by key {verifier.fingerprint.hex()}, not by the pinned one"
        raise LogRefusedError(f"{KEY_FILE}: {other}.")
    try:
        signed = verify_checkpoint(_read_text(folder / CHECKPOINT_FILE), verifier, origin)
    except Refusal as refusal:
        raise LogRefusedError(f"{CHECKPOINT_FILE}: {refusal.detail}") from refusal
    walk = _ExportWalk(folder, signed.checkpoint.size)
    walk.run()
    if walk.tree.root() != signed.checkpoint.root:
        raise LogRefusedError(f"{CHECKPOINT_FILE}: its root is not that of the {walk.tree.size} entries in the export.")
    return ExportReport(signed, verifier, pinned is not None, walk.erased)


@dataclass
class _ExportWalk:
    """One pass over the entry bundles of a log of `size` entries."""

    folder: Path
    size: int
    tree: CompactTree = field(default_factory=CompactTree)
    previous: bytes = GENESIS_HASH
    erased: int = 0
    tiles: dict[int, tuple[Path, bytes]] = field(default_factory=dict)

    def run(self) -> None:
        for index, width in log_tiles.tiles(self.size, 0):
            path = self.folder / log_tiles.tile_path(ENTRIES, index, width)
            beside = self.folder / log_tiles.disclosures_path(index, width)
            entries = self._bundle(path, width, _MAX_BUNDLE_BYTES)
            disclosures = self._bundle(beside, width, _MAX_DISCLOSURES_BYTES)
            for data, disclosure in zip(entries, disclosures, strict=True):
                entry = self._take(data, path)
                self._disclose(entry, disclosure, beside)

    def _bundle(self, path: Path, width: int, maximum_bytes: int) -> list[bytes]:
        try:
            return log_tiles.split_bundle(_read(path, maximum_bytes), width)
        except Refusal as refusal:
            raise LogRefusedError(f"{self._name(path)}: {refusal.detail}") from refusal

    def _disclose(self, entry: AuditEntry, data: bytes, path: Path) -> None:
        """Check what an entry commits to; where it was erased there is nothing to check."""
        if not data:
            self.erased += 1
            return
        place = f"The disclosure of entry {entry.index} in {self._name(path)}"
        if not hmac.compare_digest(commitment(data), entry.commitment):
            raise LogRefusedError(f"{place} was changed: the entry commits to another one.")
        try:
            Disclosure.from_bytes(data)
        except Refusal as refusal:
            raise LogRefusedError(f"{place}: {refusal.detail}") from refusal

    def _take(self, data: bytes, path: Path) -> AuditEntry:
        """Check one entry: first against its own hash in the tile, so that a changed entry is named itself."""
        index = self.tree.size
        for node in self.tree.append(leaf_hash(data)):
            if node.level % TILE_HEIGHT == 0:
                self._compare(node, f"Entry {index} in {self._name(path)}")
        try:
            entry = AuditEntry.from_bytes(data)
        except Refusal as refusal:
            raise LogRefusedError(f"Entry {index} in {self._name(path)}: {refusal.detail}") from refusal
        if entry.index != index:
            raise LogRefusedError(f"Entry {index} in {self._name(path)} says that it is entry {entry.index}.")
        if entry.previous_hash != self.previous:
            sentence = "does not follow the entry before it: one of the two was changed"
            raise LogRefusedError(f"Entry {index} in {self._name(path)} {sentence}.")
        self.previous = entry_hash(data)
        return entry

    def _compare(self, node: Node, culprit: str) -> None:
        level = node.level // TILE_HEIGHT
        position = node.index % TILE_WIDTH
        if position == 0:
            self.tiles[level] = self._load_tile(level, node.index // TILE_WIDTH)
        path, hashes = self.tiles[level]
        if hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES] == node.hash:
            return
        if level:
            raise LogRefusedError(f"Hash {position} in {self._name(path)} is not that of the tile below it.")
        raise LogRefusedError(f"{culprit} does not have the hash that {self._name(path)} states for it.")

    def _load_tile(self, level: int, index: int) -> tuple[Path, bytes]:
        width = min(TILE_WIDTH, (self.size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH)
        path = self.folder / log_tiles.tile_path(level, index, width)
        hashes = _read(path, TILE_WIDTH * HASH_BYTES)
        if len(hashes) != width * HASH_BYTES:
            raise LogRefusedError(f"{self._name(path)} has {len(hashes)} bytes instead of {width * HASH_BYTES}.")
        return path, hashes

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _read_key(folder: Path) -> tuple[str, Verifier]:
    try:
        return parse_verifier_key(_read_text(folder / KEY_FILE))
    except Refusal as refusal:
        raise LogRefusedError(f"{KEY_FILE}: {refusal.detail}") from refusal


def _is_pinned(verifier: Verifier, pinned: Verifier | bytes) -> bool:
    expected = pinned.fingerprint if isinstance(pinned, Verifier) else pinned
    return hmac.compare_digest(verifier.fingerprint, expected)


def _read(path: Path, maximum_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(maximum_bytes + 1)
    except OSError as error:
        raise LogRefusedError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > maximum_bytes:
        raise LogRefusedError(f"{path} is longer than {maximum_bytes} bytes.")
    return data


def _read_text(path: Path) -> str:
    try:
        return _read(path, MAX_NOTE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise LogRefusedError(f"{path} is not text in UTF-8.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when the log holds, 1 when it does not, 2 (by argparse) for wrong usage."""
    parser = argparse.ArgumentParser(prog="qflare-verify", description="Check an exported QFLARE log offline.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the exported log")
    parser.add_argument(
        "--key", type=_pinned_key, metavar="FILE|FINGERPRINT", help="the log's key as you know it from elsewhere"
    )
    options = parser.parse_args(arguments)
    try:
        report = verify_export(options.folder, options.key)
    except LogRefusedError as refused:
        sys.stderr.write(f"The log does NOT hold.\n{refused}\n")
        return 1
    sys.stdout.write(_in_words(report))
    return 0


def _pinned_key(text: str) -> Verifier | bytes:
    """Read `--key`: a verifier key file, or the 64 hexadecimal digits of a key fingerprint."""
    if Path(text).is_file():
        try:
            return parse_verifier_key(_read_text(Path(text)))[1]
        except (Refusal, LogRefusedError) as error:
            raise argparse.ArgumentTypeError(f"{text} does not hold a verifier key: {error}") from error
    if len(text) != _FINGERPRINT_DIGITS or not set(text) <= set(string.hexdigits):
        raise argparse.ArgumentTypeError(f"{text} is neither a file nor {_FINGERPRINT_DIGITS} hexadecimal digits")
    return bytes.fromhex(text)


def _in_words(report: ExportReport) -> str:
    head = report.signed.checkpoint
    moment = datetime.fromtimestamp(report.signed.timestamp, UTC)
    source = "the key you pinned" if report.key_was_pinned else "the key found in the export"
    lines = [
        f"The log holds: {head.size} entries of {head.origin}, chain, tree and tiles agree.",
        f"Root {head.root.hex()}",
        f"Signed {moment:%Y-%m-%d %H:%M:%S} UTC by {source}, fingerprint {report.verifier.fingerprint.hex()}.",
    ]
    if report.erased:
        lines.append(f"{report.erased} entries were erased: what they tell is gone, that they stood there is proved.")
    if not report.key_was_pinned:
        lines.append("The key itself was NOT pinned: compare its fingerprint with one you trust, or pass it as --key.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
