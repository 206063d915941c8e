"""Appending events to chain and tree, by one sequencer at a time, inside the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime

from django.db import connection

from audit.bulk_rows import insert_rows, set_true
from audit.models import Entry, Event, Sequencer, Tile
from audit.tree import load_tree, tree_size
from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, entry_hash, to_microseconds
from qflare_protocol.merkle import leaf_hash

BATCH = 10_000
"""Entries of one commit."""
ADVISORY_LOCK = 0x51464C4F47
"""The key of PostgreSQL's advisory lock: "QFLOG"."""

_ENTRY_FIELDS = ("index", "event_id", "occurred_at", "kind", "commitment", "entry_hash", "leaf_hash")
_TILE_FIELDS = ("level", "index", "hashes", "root")

Waiting = tuple[int, datetime, str, bytes]
"""An event's id, time, kind and commitment."""


def take_sequencer_lock(now: datetime) -> bool:
    """Become the one sequencer until the transaction ends, or return False where another one is at work.

    PostgreSQL gives an advisory lock, which a dead connection gives back. Elsewhere the update of the one
    row makes this transaction the only writer, and waits for another one to end.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [ADVISORY_LOCK])
            if not cursor.fetchone()[0]:
                return False
    if not Sequencer.objects.filter(id=1).update(last_run_at=now):
        Sequencer.objects.bulk_create([Sequencer(id=1, last_run_at=now)], ignore_conflicts=True)
    return True


def append_to_log(events: Sequence[Waiting]) -> tuple[int, bytes]:
    """Append the events in their order; return the log's new size and root."""
    size = tree_size()
    tree, previous = load_tree(size), last_hash(size)
    entries, tiles = [], []
    for index, (event_id, occurred_at, kind, commitment) in enumerate(events, start=size):
        committed = bytes(commitment)
        data = AuditEntry(index, to_microseconds(occurred_at), kind, committed, previous).to_bytes()
        previous, leaf = entry_hash(data), leaf_hash(data)
        tiles += [(tile.level, tile.index, tile.hashes, tile.root) for tile in tree.append(leaf)]
        entries.append((index, event_id, occurred_at, kind, committed, previous, leaf))
    insert_rows(Entry, _ENTRY_FIELDS, entries)
    insert_rows(Tile, _TILE_FIELDS, tiles)
    set_true(Event, "sequenced", [event[0] for event in events])
    return tree.size, tree.root()


def last_hash(size: int) -> bytes:
    """Return the hash that entry `size` follows."""
    return bytes(Entry.objects.values_list("entry_hash", flat=True).get(index=size - 1)) if size else GENESIS_HASH
