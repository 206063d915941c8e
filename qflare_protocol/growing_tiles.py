"""A Merkle tree (RFC 6962) that grows by leaves and gives out its full tiles (C2SP tlog-tiles).

It holds what no full tile holds yet: at most 255 hashes of every tile level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qflare_protocol.log_tiles import TILE_HEIGHT, TILE_WIDTH, tile_levels
from qflare_protocol.merkle import EMPTY_ROOT, node_hash

EdgeLookup = Callable[[int, int, int], Sequence[bytes]]
"""(tile level, tile index, width) to that many hashes of an unfinished tile."""


@dataclass(frozen=True, slots=True)
class Tile:
    """256 hashes of tree level 8 * `level`, and the root of the subtree over them."""

    level: int
    index: int
    hashes: bytes
    root: bytes


class GrowingTiles:
    """The unfinished tiles at the right edge of a tree of `size` leaves."""

    def __init__(self) -> None:
        self.size = 0
        self._edges: list[list[bytes]] = []

    @classmethod
    def load(cls, size: int, edge: EdgeLookup) -> "GrowingTiles":
        """Take up a stored tree of that size."""
        tiles = cls()
        tiles.size = size
        for level in tile_levels(size):
            index, width = divmod(size >> (TILE_HEIGHT * level), TILE_WIDTH)
            tiles._edges.append(list(edge(level, index, width)) if width else [])
        return tiles

    def edges(self) -> list[list[bytes]]:
        """Return the hashes of the unfinished tile of each level, from which `load` takes the tree up again."""
        return [list(edge) for edge in self._edges]

    def append(self, leaf_hash: bytes) -> list[Tile]:
        """Add the next leaf's hash and return the tiles that it fills, the lowest first."""
        self.size += 1
        filled: list[Tile] = []
        value, level = leaf_hash, 0
        while True:
            if level == len(self._edges):
                self._edges.append([])
            edge = self._edges[level]
            edge.append(value)
            if len(edge) < TILE_WIDTH:
                return filled
            value = subtree_root(edge)
            index = (self.size >> (TILE_HEIGHT * (level + 1))) - 1
            filled.append(Tile(level, index, b"".join(edge), value))
            edge.clear()
            level += 1

    def root(self) -> bytes:
        """Return the root over all leaves so far; of the empty tree the hash of nothing."""
        peaks = [peak for edge in reversed(self._edges) for peak in _peaks(edge)]
        if not peaks:
            return EMPTY_ROOT
        root = peaks.pop()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over hashes whose number is a power of two."""
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def _peaks(edge: Sequence[bytes]) -> list[bytes]:
    """Return the roots of the complete subtrees of an edge, the largest first."""
    peaks, start = [], 0
    for height in reversed(range(TILE_HEIGHT)):
        width = 1 << height
        if len(edge) & width:
            peaks.append(subtree_root(edge[start : start + width]))
            start += width
    return peaks
