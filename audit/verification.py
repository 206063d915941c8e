"""Recomputing the log from the database: chain, tree, checkpoints and the events they came from."""

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Q

from audit.models import Checkpoint, Entry, Event, Tile
from audit.services import log_origin
from keyring.services import server_verifiers
from qflare_protocol.audit_entry import GENESIS_HASH, commitment, entry_hash
from qflare_protocol.checkpoint import SignedCheckpoint, verify_checkpoint
from qflare_protocol.cose import Verifier
from qflare_protocol.encoding import decode
from qflare_protocol.errors import Refusal
from qflare_protocol.growing_tiles import GrowingTiles
from qflare_protocol.growing_tiles import Tile as FilledTile
from qflare_protocol.log_tiles import TILE_HEIGHT
from qflare_protocol.merkle import leaf_hash

_BATCH = 1000
_TILE_LEVELS = 8


class LogDamagedError(Exception):
    """The first row that does not fit, and what is wrong with it, in one sentence."""


@dataclass(frozen=True)
class LogReport:
    """A log in which everything fits: its entries, how many were erased, checkpoints, waiting events, and the root."""

    entries: int
    erased: int
    checkpoints: int
    waiting_events: int
    root: bytes


def verify_log() -> LogReport:
    """Recompute the whole log in constant memory. Raises `LogDamagedError` at the first bad row.

    Entries that are sequenced and checkpoints that are signed while this runs are left for next time.
    """
    heads = list(Checkpoint.objects.order_by("size", "id").values_list("id", "size"))
    walk = _LogWalk(heads)
    walk.run(Entry.objects.count())
    _refuse_surplus_rows(walk.tree.size)
    waiting = Event.objects.filter(sequenced=False).count()
    return LogReport(walk.tree.size, walk.erased, walk.checked, waiting, walk.tree.root())


class _LogWalk:
    """One pass over the entries, with what has been computed so far."""

    def __init__(self, heads: list[tuple[int, int]]) -> None:
        self.tree, self.checked, self.erased = GrowingTiles(), 0, 0
        self._heads = heads
        self._previous = GENESIS_HASH
        self._origin, self._keys = log_origin(), server_verifiers("log")

    def run(self, size: int) -> None:
        self._check_heads()
        for entries in _batches(size):
            for entry in entries:
                self._check_entry(entry)
                for tile in self.tree.append(bytes(entry.leaf_hash)):
                    _check_tile(tile)
                self._check_heads()
        if self.checked < len(self._heads):
            row_id, claimed = self._heads[self.checked]
            raise LogDamagedError(f"Checkpoint {row_id} covers {claimed} entries; the log has only {self.tree.size}.")

    def _check_entry(self, entry: Entry) -> None:
        index = self.tree.size
        if entry.index != index:
            raise LogDamagedError(f"Entry {index} is missing: the next row is entry {entry.index}.")
        data = entry.canonical_bytes(self._previous)
        if bytes(entry.entry_hash) != entry_hash(data):
            sentence = "or the one before it was changed: it does not have its entry_hash"
            raise LogDamagedError(f"Entry {index} {sentence}.")
        if bytes(entry.leaf_hash) != leaf_hash(data):
            raise LogDamagedError(f"Entry {index} was changed: its content does not have its leaf_hash.")
        self.erased += _check_event(entry)
        self._previous = bytes(entry.entry_hash)

    def _check_heads(self) -> None:
        while self.checked < len(self._heads) and self._heads[self.checked][1] == self.tree.size:
            row = Checkpoint.objects.get(id=self._heads[self.checked][0])
            _check_checkpoint(row, self.tree.root(), self._origin, self._keys)
            self.checked += 1


def _batches(size: int) -> Iterator[list[Entry]]:
    """Yield the first `size` rows by index, as many at a time as one query may bring."""
    last = -1
    while size > 0:
        rows = Entry.objects.filter(index__gt=last).order_by("index").select_related("event")
        batch = list(rows[: min(size, _BATCH)])
        if not batch:
            return
        yield batch
        last, size = batch[-1].index, size - len(batch)


def _check_event(entry: Entry) -> bool:
    """Check that the event is what the entry commits to; return whether its disclosure was erased."""
    event = entry.event
    columns = (event.occurred_at, event.kind, bytes(event.commitment))
    if columns != (entry.occurred_at, entry.kind, bytes(entry.commitment)):
        raise _changed_event(entry)
    if event.erased_at is not None:
        return True
    committed = hmac.compare_digest(commitment(event.disclosure_bytes()), bytes(entry.commitment))
    if not committed or not _is_encoded_by(event):
        raise _changed_event(entry)
    return False


def _is_encoded_by(event: Event) -> bool:
    """Return whether the payload that people read is the one that is committed to."""
    try:
        return _same(event.payload, decode(bytes(event.payload_bytes), what="audit payload"))
    except (Refusal, OverflowError):
        return False


def _same(told: Any, committed: Any) -> bool:
    """Compare JSON with what was committed to; PostgreSQL writes a large float as the integer it stands for."""
    if isinstance(committed, float) and isinstance(told, int | float) and not isinstance(told, bool):
        return float(told) == committed
    if type(told) is not type(committed):
        return False
    if isinstance(committed, dict):
        return told.keys() == committed.keys() and all(_same(told[name], committed[name]) for name in committed)
    if isinstance(committed, list):
        return len(told) == len(committed) and all(map(_same, told, committed))
    return bool(told == committed)


def _changed_event(entry: Entry) -> LogDamagedError:
    return LogDamagedError(f"Event {entry.event_id} was changed: entry {entry.index} commits to another one.")


def _check_tile(expected: FilledTile) -> None:
    place = f"Tile (level {expected.level}, index {expected.index})"
    stored = Tile.objects.filter(level=expected.level, index=expected.index).first()
    if stored is None:
        raise LogDamagedError(f"{place} is missing.")
    if (bytes(stored.hashes), bytes(stored.root)) != (expected.hashes, expected.root):
        raise LogDamagedError(f"{place} was changed: what lies below it hashes otherwise.")


def _check_checkpoint(row: Checkpoint, root: bytes, origin: str, keys: list[Verifier]) -> None:
    if bytes(row.root) != root:
        raise LogDamagedError(f"Checkpoint {row.pk} has another root than the {row.size} entries it covers.")
    try:
        _, signed = verified_note(row.note, origin, keys)
    except Refusal as refusal:
        raise LogDamagedError(f"Checkpoint {row.pk} does not carry the log's signature: {refusal.detail}") from refusal
    repeated = (signed.checkpoint.size, signed.checkpoint.root, signed.timestamp)
    if repeated != (row.size, root, int(row.created_at.timestamp())):
        raise LogDamagedError(f"Checkpoint {row.pk} was changed: its columns differ from its signed note.")


def verified_note(note: str, origin: str, keys: Sequence[Verifier]) -> tuple[Verifier, SignedCheckpoint]:
    """Return the key that signed the note, which may be retired by now, and the verified checkpoint.

    Raises the `Refusal` of `verify_checkpoint` where none of the keys has.
    """
    *others, last = keys
    for key in others:
        try:
            return key, verify_checkpoint(note, key, origin)
        except Refusal:
            continue  # the refusal that counts is that of the last key
    return last, verify_checkpoint(note, last, origin)


def _refuse_surplus_rows(size: int) -> None:
    """Refuse tiles beyond the tree, and events that claim to be in the log and are not."""
    beyond = [Q(level=level, index__gte=size >> (TILE_HEIGHT * (level + 1))) for level in range(_TILE_LEVELS)]
    surplus = Tile.objects.filter(reduce(or_, beyond, Q(level__gte=_TILE_LEVELS))).order_by("id").first()
    if surplus is not None and Entry.objects.count() == size:
        raise LogDamagedError(f"Tile ({surplus}) stands for entries that are not there.")
    lost = Event.objects.filter(sequenced=True, entry=None).order_by("id").first()
    if lost is not None:
        raise LogDamagedError(f"Event {lost.pk} ({lost.kind}) is marked as sequenced and has no entry.")
