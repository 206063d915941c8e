"""Recomputing the log from the database: chain, tree, checkpoints and the events they came from."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from django.db.models import Q

from audit.models import Checkpoint, Entry, Event, TreeNode
from audit.services import log_origin
from keyring.services import server_verifiers
from qflare_protocol.audit_entry import GENESIS_HASH, entry_hash
from qflare_protocol.checkpoint import SignedCheckpoint, verify_checkpoint
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.merkle import CompactTree, leaf_hash

_BATCH = 1000


class LogDamagedError(Exception):
    """The first row that does not fit, and what is wrong with it, in one sentence."""


@dataclass(frozen=True)
class LogReport:
    """A log in which everything fits: how many entries, checkpoints and waiting events, and the root."""

    entries: int
    checkpoints: int
    waiting_events: int
    root: bytes


def verify_log() -> LogReport:
    """Recompute the whole log in constant memory. Raises `LogDamagedError` at the first bad row.

    Entries that are sequenced and checkpoints that are signed while this runs are left for next time.
    """
    heads = list(Checkpoint.objects.order_by("size", "id").values_list("id", "size"))
    size = Entry.objects.count()
    tree, checked = _LogWalk(heads).run(size)
    _refuse_surplus_rows(tree.size)
    waiting = Event.objects.filter(sequenced=False).count()
    return LogReport(tree.size, checked, waiting, tree.root())


class _LogWalk:
    """One pass over the entries, with what has been computed so far."""

    def __init__(self, heads: list[tuple[int, int]]) -> None:
        self._heads = heads
        self._checked = 0
        self._tree = CompactTree()
        self._previous = GENESIS_HASH
        self._origin, self._keys = log_origin(), server_verifiers("log")

    def run(self, size: int) -> tuple[CompactTree, int]:
        self._check_heads()
        for entries in _batches(size):
            expected: dict[tuple[int, int], bytes] = {}
            for entry in entries:
                self._check_entry(entry)
                completed = self._tree.append(bytes(entry.leaf_hash))
                expected.update({(node.level, node.index): node.hash for node in completed[1:]})
                self._check_heads()
            _check_nodes(expected)
        if self._checked < len(self._heads):
            row_id, claimed = self._heads[self._checked]
            raise LogDamagedError(f"Checkpoint {row_id} covers {claimed} entries; the log has only {self._tree.size}.")
        return self._tree, self._checked

    def _check_entry(self, entry: Entry) -> None:
        index = self._tree.size
        if entry.index != index:
            raise LogDamagedError(f"Entry {index} is missing: the next row is entry {entry.index}.")
        if bytes(entry.previous_hash) != self._previous:
            raise LogDamagedError(f"Entry {index} does not follow entry {index - 1}: its previous_hash is another.")
        data = _canonical_bytes(entry)
        if bytes(entry.entry_hash) != entry_hash(data):
            raise LogDamagedError(f"Entry {index} was changed: its content does not have its entry_hash.")
        if bytes(entry.leaf_hash) != leaf_hash(data):
            raise LogDamagedError(f"Entry {index} was changed: its content does not have its leaf_hash.")
        _check_event(entry)
        self._previous = bytes(entry.entry_hash)

    def _check_heads(self) -> None:
        while self._checked < len(self._heads) and self._heads[self._checked][1] == self._tree.size:
            row = Checkpoint.objects.get(id=self._heads[self._checked][0])
            _check_checkpoint(row, self._tree.root(), self._origin, self._keys)
            self._checked += 1


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


def _canonical_bytes(entry: Entry) -> bytes:
    try:
        return entry.canonical_bytes()
    except Refusal as refusal:
        raise LogDamagedError(f"Entry {entry.index} was changed: {refusal.detail}") from refusal


def _check_event(entry: Entry) -> None:
    event = entry.event
    same = (event.occurred_at, event.actor, event.kind) == (entry.occurred_at, entry.actor, entry.kind)
    unchanged = bytes(event.payload_bytes) == bytes(entry.payload_bytes) and event.payload == entry.payload
    if not same or not unchanged:
        raise LogDamagedError(f"Event {event.pk} was changed: it differs from entry {entry.index}, which recorded it.")


def _check_nodes(expected: dict[tuple[int, int], bytes]) -> None:
    stored = _nodes_in_ranges(expected)
    for place, value in expected.items():
        level, index = place
        if place not in stored:
            raise LogDamagedError(f"Tree node (level {level}, index {index}) is missing.")
        if stored[place] != value:
            raise LogDamagedError(f"Tree node (level {level}, index {index}) was changed: its children hash otherwise.")


def _nodes_in_ranges(places: dict[tuple[int, int], bytes]) -> dict[tuple[int, int], bytes]:
    by_level: dict[int, list[int]] = defaultdict(list)
    for level, index in places:
        by_level[level].append(index)
    ranges = [Q(level=level, index__gte=min(found), index__lte=max(found)) for level, found in by_level.items()]
    if not ranges:
        return {}
    rows = TreeNode.objects.filter(reduce(or_, ranges)).values_list("level", "index", "hash")
    return {(level, index): bytes(value) for level, index, value in rows}


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
    """Refuse nodes beyond the tree, and events that claim to be in the log and are not."""
    top = size.bit_length() + 1
    beyond = [Q(level=level, index__gte=size >> level) for level in range(1, top)]
    surplus = TreeNode.objects.filter(reduce(or_, beyond, Q(level__gte=top))).order_by("id").first()
    if surplus is not None and Entry.objects.count() == size:
        raise LogDamagedError(f"Tree node ({surplus}) stands for entries that are not there.")
    lost = Event.objects.filter(sequenced=True, entry=None).order_by("id").first()
    if lost is not None:
        raise LogDamagedError(f"Event {lost.pk} ({lost.kind}) is marked as sequenced and has no entry.")
