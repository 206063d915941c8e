"""The Merkle tree as the database keeps it: full tiles, and at the right edge entries and roots of tiles."""

from collections.abc import Callable, Collection
from functools import lru_cache, reduce
from operator import or_

from django.db.models import Q

from audit.models import Entry, Tile
from qflare_protocol import merkle
from qflare_protocol.growing_tiles import GrowingTiles, subtree_root
from qflare_protocol.log_tiles import TILE_HEIGHT, TILE_WIDTH

KNOWN_ROOTS = 256


def tree_size() -> int:
    """Return how many entries the log has."""
    last = Entry.objects.order_by("-index").values_list("index", flat=True).first()
    return 0 if last is None else last + 1


def load_tree(size: int) -> GrowingTiles:
    """Return the right edge of the tree of the first `size` entries. Raises `LookupError` if the log is shorter."""
    stored = StoredTree(size)
    return GrowingTiles.load(size, lambda level, index, width: stored.hashes(level, index, 0, width))


def root_at(size: int) -> bytes:
    """Return the root of the first `size` entries. Raises `LookupError` if the log is shorter."""
    return merkle.root_from_nodes(size, StoredTree(size).node) if size else merkle.EMPTY_ROOT


def root_of_prefix(size: int) -> bytes | None:
    """Return the root of the first `size` entries, None where the log is shorter; one query where it is known.

    A fleet cosigns the same few checkpoints. The chain's hash at the last entry commits to all before it, so that
    a root which was computed beside that hash is the root of these entries and of no others.
    """
    if size == 0:
        return merkle.EMPTY_ROOT
    last = Entry.objects.filter(index=size - 1).values_list("entry_hash", flat=True).first()
    return None if last is None else _root_beside(size, bytes(last))


@lru_cache(maxsize=KNOWN_ROOTS)
def _root_beside(size: int, entry_hash: bytes) -> bytes:
    return root_at(size)


def inclusion_proof(index: int, size: int) -> list[bytes]:
    """Return the proof that entry `index` is in the log of `size` entries.

    Raises `ValueError` unless 0 <= index < size, `LookupError` if the log is shorter.
    """
    return _from_stored_tree(size, lambda node: merkle.inclusion_proof(index, size, node))


def consistency_proof(old_size: int, new_size: int) -> list[bytes]:
    """Return the proof that the log of `new_size` entries extends that of `old_size`.

    From the empty log there is nothing to prove, so the list is empty. Raises `ValueError` unless
    0 <= old_size <= new_size, `LookupError` if the log is shorter.
    """
    if old_size == 0 <= new_size:
        return []
    return _from_stored_tree(new_size, lambda node: merkle.consistency_proof(old_size, new_size, node))


def _from_stored_tree(size: int, compute: Callable[[merkle.NodeLookup], list[bytes]]) -> list[bytes]:
    """Run a computation twice: once to learn which tiles it looks at, then with these from at most three queries."""
    places: set[tuple[int, int]] = set()

    def note(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        places.add((tile_level, (index << height) // TILE_WIDTH))
        return merkle.EMPTY_ROOT

    compute(note)
    stored = StoredTree(size)
    stored.read(places)
    return compute(stored.node)


class StoredTree:
    """Reads tiles of the tree of `size` leaves, full ones and those at its right edge, and keeps them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree. Raises `LookupError` if the log is shorter."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        tile, start = divmod(first, TILE_WIDTH)
        return subtree_root(self.hashes(tile_level, tile, start, start + (1 << height)))

    def hashes(self, level: int, index: int, start: int, stop: int) -> list[bytes]:
        """Return the hashes from `start` to before `stop` of a tile. Raises `LookupError` if the log is shorter."""
        if (level, index) not in self._tiles:
            self.read({(level, index)})
        found = self._tiles[level, index][start:stop]
        if len(found) != stop - start:
            raise LookupError(f"the log does not reach hash {stop - 1} of tile {index} on level {level}")
        return found

    def read(self, places: Collection[tuple[int, int]]) -> None:
        """Read tiles, given as (level, index), with a query for the full ones and one for each level of the edge."""
        full = [(level, index) for level, index in places if self._is_full(level, index)]
        self._tiles |= {(level, index): edge_hashes(level, index) for level, index in set(places) - set(full)}
        if full:
            wanted = reduce(or_, [Q(level=level, index=index) for level, index in full])
            rows = Tile.objects.filter(wanted).values_list("level", "index", "hashes")
            found = {(level, index): split_hashes(bytes(hashes)) for level, index, hashes in rows}
            self._tiles |= {place: found.get(place, []) for place in full}

    def _is_full(self, level: int, index: int) -> bool:
        return (index + 1) << (TILE_HEIGHT * (level + 1)) <= self._size


def edge_hashes(level: int, index: int) -> list[bytes]:
    """Return the hashes of a tile that is not full, from the entries or the tiles below it."""
    places = range(index * TILE_WIDTH, (index + 1) * TILE_WIDTH)
    if level == 0:
        entries = Entry.objects.filter(index__gte=places.start, index__lt=places.stop).order_by("index")
        return [bytes(leaf_hash) for leaf_hash in entries.values_list("leaf_hash", flat=True)]
    tiles = Tile.objects.filter(level=level - 1, index__gte=places.start, index__lt=places.stop).order_by("index")
    return [bytes(root) for root in tiles.values_list("root", flat=True)]


def split_hashes(joined: bytes) -> list[bytes]:
    """Return the hashes of a tile one by one."""
    return [joined[start : start + merkle.HASH_BYTES] for start in range(0, len(joined), merkle.HASH_BYTES)]
