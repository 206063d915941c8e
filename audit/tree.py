"""The Merkle tree as the database keeps it."""

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import TypeVar

from django.db.models import Q

from audit.models import Entry, TreeNode
from qflare_protocol import merkle

T = TypeVar("T")


def tree_size() -> int:
    """Return how many entries the log has."""
    last = Entry.objects.order_by("-index").values_list("index", flat=True).first()
    return 0 if last is None else last + 1


def load_tree(size: int) -> merkle.CompactTree:
    """Return the right edge of the tree of the first `size` entries. Raises `LookupError` if the log is shorter."""
    return _from_stored_nodes(lambda node: merkle.CompactTree.load(size, node))


def root_at(size: int) -> bytes:
    """Return the root of the first `size` entries. Raises `LookupError` if the log is shorter."""
    return load_tree(size).root()


def inclusion_proof(index: int, size: int) -> list[bytes]:
    """Return the proof that entry `index` is in the log of `size` entries.

    Raises `ValueError` unless 0 <= index < size, `LookupError` if the log is shorter.
    """
    return _from_stored_nodes(lambda node: merkle.inclusion_proof(index, size, node))


def consistency_proof(old_size: int, new_size: int) -> list[bytes]:
    """Return the proof that the log of `new_size` entries extends that of `old_size`.

    From the empty log there is nothing to prove, so the list is empty. Raises `ValueError` unless
    0 <= old_size <= new_size, `LookupError` if the log is shorter.
    """
    if old_size == 0 <= new_size:
        return []
    return _from_stored_nodes(lambda node: merkle.consistency_proof(old_size, new_size, node))


def _from_stored_nodes(compute: Callable[[merkle.NodeLookup], T]) -> T:
    """Run a computation twice: once to learn which nodes it needs, then with these from at most two queries."""
    wanted: set[tuple[int, int]] = set()

    def note(level: int, index: int) -> bytes:
        wanted.add((level, index))
        return merkle.EMPTY_ROOT

    compute(note)
    stored = _stored_nodes(wanted)
    return compute(lambda level, index: stored[level, index])


def _stored_nodes(wanted: set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    leaves = [index for level, index in wanted if level == 0]
    places = [Q(level=level, index=index) for level, index in wanted if level > 0]
    stored = {}
    if leaves:
        rows = Entry.objects.filter(index__in=leaves).values_list("index", "leaf_hash")
        stored.update({(0, index): bytes(leaf) for index, leaf in rows})
    if places:
        nodes = TreeNode.objects.filter(reduce(or_, places)).values_list("level", "index", "hash")
        stored.update({(level, index): bytes(value) for level, index, value in nodes})
    return stored
