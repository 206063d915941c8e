"""Tiles that grow give the tree of RFC 6962 and each full tile once."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.growing_tiles import GrowingTiles, Tile
from qflare_protocol.merkle import CompactTree, root_from_leaves

LEAVES = [hashlib.sha256(index.to_bytes(4, "big")).digest() for index in range(66_000)]


def grown(size: int) -> tuple[GrowingTiles, list[Tile]]:
    tiles = GrowingTiles()
    return tiles, [tile for leaf in LEAVES[:size] for tile in tiles.append(leaf)]


@given(st.integers(0, 1200))
def test_the_root_is_that_of_the_leaves(size: int) -> None:
    tiles, _ = grown(size)
    assert (tiles.size, tiles.root()) == (size, root_from_leaves(LEAVES[:size]))


def test_every_full_tile_is_given_out_once_and_in_order() -> None:
    tiles, filled = grown(66_000)
    assert tiles.root() == root_from_leaves(LEAVES)
    lower, upper = ([tile for tile in filled if tile.level == level] for level in (0, 1))
    assert [tile.index for tile in lower] == list(range(257))
    assert [tile.index for tile in upper] == [0]
    assert upper[0].hashes == b"".join(tile.root for tile in lower[:256])
    assert b"".join(tile.hashes for tile in lower) == b"".join(LEAVES[: 257 * 256])
    assert upper[0].root == root_from_leaves(LEAVES[:65_536])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 5000, 65_535, 65_536, 65_999])
def test_a_stored_tree_is_taken_up_where_it_was_left(size: int) -> None:
    nodes: dict[tuple[int, int], bytes] = {}
    tree = CompactTree()
    for leaf in LEAVES[:size]:
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}

    def edge(level: int, index: int, width: int) -> list[bytes]:
        return [nodes[8 * level, index * 256 + place] for place in range(width)]

    taken_up, (straight, _) = GrowingTiles.load(size, edge), grown(size)
    assert taken_up.root() == straight.root() == tree.root()
    assert taken_up.append(LEAVES[-1]) == straight.append(LEAVES[-1])
    assert taken_up.root() == straight.root()
