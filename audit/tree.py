"""The Merkle tree as the database keeps it: full tiles, and at the right edge entries and roots of tiles."""

from audit.models import Entry, Tile
from qflare_protocol import merkle
from qflare_protocol.growing_tiles import GrowingTiles, subtree_root
from qflare_protocol.log_tiles import TILE_HEIGHT, TILE_WIDTH


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


def inclusion_proof(index: int, size: int) -> list[bytes]:
    """Return the proof that entry `index` is in the log of `size` entries.

    Raises `ValueError` unless 0 <= index < size, `LookupError` if the log is shorter.
    """
    return merkle.inclusion_proof(index, size, StoredTree(size).node)


def consistency_proof(old_size: int, new_size: int) -> list[bytes]:
    """Return the proof that the log of `new_size` entries extends that of `old_size`.

    From the empty log there is nothing to prove, so the list is empty. Raises `ValueError` unless
    0 <= old_size <= new_size, `LookupError` if the log is shorter.
    """
    if old_size == 0 <= new_size:
        return []
    return merkle.consistency_proof(old_size, new_size, StoredTree(new_size).node)


class StoredTree:
    """Reads nodes of the tree of `size` leaves and keeps what it has read: a query for each tile that is looked at."""

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
            self._tiles[level, index] = self._read(level, index)
        found = self._tiles[level, index][start:stop]
        if len(found) != stop - start:
            raise LookupError(f"the log does not reach hash {stop - 1} of tile {index} on level {level}")
        return found

    def _read(self, level: int, index: int) -> list[bytes]:
        if (index + 1) << (TILE_HEIGHT * (level + 1)) > self._size:
            return [bytes(value) for value in edge_hashes(level, index)]
        full = Tile.objects.filter(level=level, index=index).values_list("hashes", flat=True)
        return split_hashes(b"".join(bytes(hashes) for hashes in full))


def edge_hashes(level: int, index: int) -> list[bytes]:
    """Return the hashes of a tile that is not full, from the entries or the tiles below it."""
    places = range(index * TILE_WIDTH, (index + 1) * TILE_WIDTH)
    if level == 0:
        below = Entry.objects.filter(index__gte=places.start, index__lt=places.stop).order_by("index")
        return list(below.values_list("leaf_hash", flat=True))
    tiles = Tile.objects.filter(level=level - 1, index__gte=places.start, index__lt=places.stop).order_by("index")
    return list(tiles.values_list("root", flat=True))


def split_hashes(joined: bytes) -> list[bytes]:
    """Return the hashes of a tile one by one."""
    return [joined[start : start + merkle.HASH_BYTES] for start in range(0, len(joined), merkle.HASH_BYTES)]
