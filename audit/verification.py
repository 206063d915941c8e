"""Recomputing the log from the database: chain, tree, checkpoints and the events they came from."""

import hmac
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Self

from django.db.models import Max, Q, QuerySet

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
    walk = LogWalk.begin()
    while not walk.is_done:
        walk.advance()
    return walk.report()


class LogWalk:
    """One pass over the entries, with what has been computed so far; `state` lets another process go on with it."""

    def __init__(self, target: int, last_head: int, tree: GrowingTiles, previous: bytes) -> None:
        self.target, self.tree = target, tree
        self._last_head, self._previous = last_head, previous
        self._checked = self._erased = 0
        self._origin, self._keys = log_origin(), server_verifiers("log")

    @classmethod
    def begin(cls) -> Self:
        """Begin at the first entry, to go as far as the log reaches now."""
        last_head = Checkpoint.objects.aggregate(last=Max("id"))["last"] or 0
        return cls(Entry.objects.count(), last_head, GrowingTiles(), GENESIS_HASH)

    @classmethod
    def resume(cls, state: Mapping[str, Any]) -> Self:
        """Go on where a walk gave out this state; it is believed, so that it must not pass through other hands."""
        tree = GrowingTiles.load(state["size"], lambda level, _index, _width: state["edges"][level])
        walk = cls(state["target"], state["last_head"], tree, state["previous"])
        walk._checked, walk._erased = state["checked"], state["erased"]
        return walk

    def state(self) -> dict[str, Any]:
        """Return all that `resume` needs, as values of CBOR: some 24 KB of a log of ten million entries."""
        return {
            "target": self.target,
            "last_head": self._last_head,
            "size": self.tree.size,
            "edges": self.tree.edges(),
            "previous": self._previous,
            "checked": self._checked,
            "erased": self._erased,
        }

    @property
    def is_done(self) -> bool:
        """Whether every entry was looked at."""
        return self.tree.size >= self.target

    def advance(self, most: int = _BATCH) -> None:
        """Look at up to `most` further entries. Raises `LogDamagedError`."""
        heads = self._heads_up_to(self.tree.size + most)
        entries = _entries_from(self.tree.size, min(most, self.target - self.tree.size))
        if not entries:
            raise LogDamagedError(f"Entry {self.tree.size} is missing: the log had {self.target} entries before.")
        for entry in entries:
            self._check_entry(entry)
            for tile in self.tree.append(bytes(entry.leaf_hash)):
                _check_tile(tile)
            for head in heads.get(self.tree.size, ()):
                _check_checkpoint(head, self.tree.root(), self._origin, self._keys)
                self._checked += 1

    def report(self) -> LogReport:
        """Return what was found, once all entries were looked at. Raises `LogDamagedError` for what belongs to none."""
        beyond = self._heads().filter(Q(size__gt=self.tree.size) | Q(size__lte=0)).first()
        if beyond is not None:
            sentence = f"covers {beyond.size} entries; the log has only {self.tree.size}"
            raise LogDamagedError(f"Checkpoint {beyond.pk} {sentence}.")
        _refuse_surplus_rows(self.tree.size)
        waiting = Event.objects.filter(sequenced=False).count()
        return LogReport(self.tree.size, self._erased, self._checked, waiting, self.tree.root())

    def _heads(self) -> QuerySet[Checkpoint]:
        return Checkpoint.objects.filter(id__lte=self._last_head).order_by("size", "id")

    def _heads_up_to(self, size: int) -> dict[int, list[Checkpoint]]:
        """Return the checkpoints of the next entries by size: those up to here were checked with their entry."""
        heads: dict[int, list[Checkpoint]] = defaultdict(list)
        for head in self._heads().filter(size__gt=self.tree.size, size__lte=size):
            heads[head.size].append(head)
        return heads

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
        self._erased += _check_event(entry)
        self._previous = bytes(entry.entry_hash)


def _entries_from(index: int, count: int) -> list[Entry]:
    rows = Entry.objects.filter(index__gte=index).order_by("index").select_related("event")
    return list(rows[:count])


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
