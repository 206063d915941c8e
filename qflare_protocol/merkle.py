"""RFC 6962 Merkle trees over SHA-256: building, proving and checking.

A tree of `size` leaves is stored as its *complete* subtrees only: node (level, index) is the hash over
the leaves index * 2^level up to (index + 1) * 2^level. Such a node never changes as the tree grows,
so a database can keep it, and every root and proof of every size is computed from those nodes.
Proofs are lists of 32-byte hashes in the order of RFC 6962 section 2.1.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from qflare_protocol.errors import Refusal

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

NodeLookup = Callable[[int, int], bytes]
"""(level, index) to the hash of that complete subtree."""


@dataclass(frozen=True, slots=True)
class Node:
    """One complete subtree: its level (0 for leaves), index within the level, and hash."""

    level: int
    index: int
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962 section 2.1: prefix 0x00)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962 section 2.1: prefix 0x01)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactTree:
    """The right edge of a growing tree: enough to append leaves and give the root, in log(size) memory."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    @classmethod
    def load(cls, size: int, node: NodeLookup) -> "CompactTree":
        """Take up a stored tree of that size; needs one node for each bit set in `size`."""
        tree = cls()
        tree.size = size
        levels = [level for level in reversed(range(size.bit_length())) if size >> level & 1]
        tree._peaks = [node(level, (size >> level) - 1) for level in levels]
        return tree

    def append(self, leaf: bytes) -> list[Node]:
        """Add the hash of the next leaf and return the subtrees it completes, the leaf itself first."""
        level, index = 0, self.size
        completed = [Node(level, index, leaf)]
        while index & 1:
            level, index = level + 1, index >> 1
            completed.append(Node(level, index, node_hash(self._peaks.pop(), completed[-1].hash)))
        self._peaks.append(completed[-1].hash)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Return the root over all leaves so far; of the empty tree the hash of nothing."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


def root_from_leaves(leaf_hashes: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    tree = CompactTree()
    for leaf in leaf_hashes:
        tree.append(leaf)
    return tree.root()


def root_from_nodes(size: int, node: NodeLookup) -> bytes:
    """Return the root of the first `size` leaves from stored complete subtrees."""
    return CompactTree.load(size, node).root()


def inclusion_proof(index: int, size: int, node: NodeLookup) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves (RFC 6962 section 2.1.1).

    Raises `ValueError` unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(begin, middle, node))
            begin = middle
    return path[::-1]


def consistency_proof(size1: int, size2: int, node: NodeLookup) -> list[bytes]:
    """Return the proof that the tree of `size2` leaves extends that of `size1` (RFC 6962 section 2.1.2).

    Raises `ValueError` unless 1 <= size1 <= size2.
    """
    if not 1 <= size1 <= size2:
        raise ValueError(f"no consistency proof from {size1} to {size2}")
    path: list[bytes] = []
    begin, end = 0, size2
    while end != size1:
        middle = begin + _split(end - begin)
        if size1 <= middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(begin, middle, node))
            begin = middle
    if begin:  # the verifier knows root1, which is this very subtree while begin is still 0
        path.append(_range_hash(begin, end, node))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return when the leaf hash is leaf `index` of the tree (RFC 9162 section 2.1.3.2).

    Raises `Refusal("proof-refused")` otherwise.
    """
    if not 0 <= index < size or not _are_hashes(leaf, root, *proof):
        _refuse("inclusion")
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            _refuse("inclusion")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            position, last = _skip_left_edges(position, last)
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or not hmac.compare_digest(computed, root):
        _refuse("inclusion")


def verify_consistency(size1: int, root1: bytes, size2: int, root2: bytes, proof: Sequence[bytes]) -> None:
    """Return when the second tree extends the first (RFC 9162 section 2.1.4.2).

    Every tree extends the empty one, so a proof from size 0 says nothing and is refused: a peer that
    has seen an empty log has seen no checkpoint yet. Raises `Refusal("proof-refused")`.
    """
    if not 1 <= size1 <= size2 or not _are_hashes(root1, root2, *proof):
        _refuse("consistency")
    if size1 == size2:
        if proof or not hmac.compare_digest(root1, root2):
            _refuse("consistency")
        return
    path = [root1, *proof] if size1 & (size1 - 1) == 0 else list(proof)
    if not path or not _both_roots_follow(size1, root1, size2, root2, path):
        _refuse("consistency")


def _both_roots_follow(size1: int, root1: bytes, size2: int, root2: bytes, path: list[bytes]) -> bool:
    position, last = size1 - 1, size2 - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            position, last = _skip_left_edges(position, last)
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and hmac.compare_digest(first, root1) and hmac.compare_digest(second, root2)


def _skip_left_edges(position: int, last: int) -> tuple[int, int]:
    """Climb the levels at which the node has no sibling to its right because the tree ends there."""
    while position and not position & 1:
        position, last = position >> 1, last >> 1
    return position, last


def _range_hash(begin: int, end: int, node: NodeLookup) -> bytes:
    """Return the hash over leaves begin to end, where `begin` is where such a subtree may start."""
    width = end - begin
    if width & (width - 1) == 0:
        return node(width.bit_length() - 1, begin // width)
    middle = begin + _split(width)
    return node_hash(_range_hash(begin, middle, node), _range_hash(middle, end, node))


def _split(width: int) -> int:
    """Return the largest power of two below `width`."""
    return 1 << ((width - 1).bit_length() - 1)


def _are_hashes(*values: bytes) -> bool:
    return all(isinstance(value, bytes) and len(value) == HASH_BYTES for value in values)


def _refuse(kind: str) -> NoReturn:
    raise Refusal("proof-refused", f"The {kind} proof does not lead to the root; ask for a new proof and checkpoint.")
