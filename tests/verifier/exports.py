"""Exports made by hand with the house's own protocol code, sound ones and others, for the verifier to judge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qflare_protocol import log_tiles, pqc
from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, Disclosure, commitment, entry_hash
from qflare_protocol.checkpoint import Checkpoint, format_verifier_key, sign_checkpoint
from qflare_protocol.cose import Signer
from qflare_protocol.merkle import CompactTree, leaf_hash
from verifier.qflare_verify import Known, Problem, Report, verify_export

ORIGIN = "qflare.example/log"
BEGIN = 1_800_000_000


def new_signer() -> Signer:
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


LOG, STRANGER = new_signer(), new_signer()


@dataclass
class Told:
    """One event to be logged: what, by whom, and when (seconds after `BEGIN`)."""

    kind: str = "test.happened"
    payload: dict[str, Any] = field(default_factory=dict)
    actor: str = "system"
    at: float = 0.0

    def disclosure(self, index: int) -> bytes:
        return Disclosure(index.to_bytes(32, "big"), self.actor, {"n": index, **self.payload}).to_bytes()


@dataclass
class Log:
    """A log to be written: its events, and after how many of them it is signed, when, and by whom."""

    events: list[Told]
    heads: list[tuple[int, int]] = field(default_factory=list)
    signer: Signer = LOG
    keys: list[Signer] = field(default_factory=list)
    signers: dict[int, Signer] = field(default_factory=dict)

    @classmethod
    def of(cls, size: int, signer: Signer = LOG, every: int = 100) -> "Log":
        """Return a log that grows by an event a second and is signed for each `every` of them."""
        heads = [(count, BEGIN + count + 1) for count in range(every, size, every)]
        return cls([Told(at=float(index)) for index in range(size)], [*heads, (size, BEGIN + size + 1)], signer)

    def entries(self) -> list[bytes]:
        found, previous = [], GENESIS_HASH
        for index, event in enumerate(self.events):
            time = int((BEGIN + event.at) * 1_000_000)
            told = commitment(event.disclosure(index))
            found.append(AuditEntry(index, time, event.kind, told, previous).to_bytes())
            previous = entry_hash(found[-1])
        return found

    def disclosures(self) -> list[bytes]:
        return [event.disclosure(index) for index, event in enumerate(self.events)]

    def write(
        self, folder: Path, entries: Sequence[bytes] | None = None, disclosures: dict[int, bytes] | None = None
    ) -> Path:
        """Write it; `entries` stand in the place of its own, and its roots and signatures are over them."""
        own = self.entries() if entries is None else list(entries)
        told = [(disclosures or {}).get(index, data) for index, data in enumerate(self.disclosures())]
        write_tiles(folder, own, told)
        roots = roots_of(own)
        notes = []
        for number, (size, time) in enumerate(self.heads):
            signer = self.signers.get(number, self.signer)
            notes.append(sign_checkpoint(signer, Checkpoint(ORIGIN, size, roots[size]), time))
        put(folder / "checkpoints", "".join(notes).encode())
        put(folder / "checkpoint", notes[-1].encode())
        keys = self.keys or [self.signer]
        lines = [format_verifier_key(ORIGIN, key.verifier) + "\n" for key in keys]
        put(folder / "log.vkeys", "".join(lines).encode())
        put(folder / "log.vkey", lines[-1].encode())
        return folder


def roots_of(entries: Sequence[bytes]) -> list[bytes]:
    """Return the roots at all sizes, from none to all."""
    tree = CompactTree()
    roots = [tree.root()]
    for data in entries:
        tree.append(leaf_hash(data))
        roots.append(tree.root())
    return roots


def write_tiles(folder: Path, entries: Sequence[bytes], told: Sequence[bytes]) -> None:
    tree, levels = CompactTree(), {level: b"" for level in range(64)}
    for data in entries:
        for node in tree.append(leaf_hash(data)):
            if node.level % 8 == 0:
                levels[node.level // 8] += node.hash
    for level in log_tiles.tile_levels(len(entries)):
        for index, width in log_tiles.tiles(len(entries), level):
            first = index * 256
            put(folder / log_tiles.tile_path(level, index, width), levels[level][first * 32 : (first + width) * 32])
    for index, width in log_tiles.tiles(len(entries), 0):
        part = slice(index * 256, index * 256 + width)
        put(folder / log_tiles.tile_path("entries", index, width), frames(entries[part]))
        put(folder / log_tiles.disclosures_path(index, width), frames(told[part]))


def frames(parts: Sequence[bytes]) -> bytes:
    return b"".join(map(log_tiles.frame_entry, parts))


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def verdict(folder: Path, known: Known | None = None) -> tuple[str, str]:
    """Return kind and sentence of what makes the log false."""
    with pytest.raises(Problem) as refused:
        verify_export(folder, known or Known())
    return refused.value.kind, str(refused.value)


def holds(folder: Path, known: Known | None = None) -> Report:
    return verify_export(folder, known or Known())
