"""Tiles lie where C2SP tlog-tiles says, and a bundle holds exactly its entries."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import log_tiles, merkle
from qflare_protocol.errors import Refusal

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "merkle" / "log"


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (1, 234, 17, "tile/1/234.p/17"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        ("entries", 1000, 1, "tile/entries/x001/000.p/1"),
    ],
)
def test_paths(level: int | str, index: int, width: int, path: str) -> None:
    assert str(log_tiles.tile_path(level, index, width)) == path


def test_the_example_of_the_specification() -> None:
    widths = [list(log_tiles.tiles(70_000, level)) for level in log_tiles.tile_levels(70_000)]
    assert [len(level) for level in widths] == [274, 2, 1]
    assert [level[-1] for level in widths] == [(273, 112), (1, 17), (0, 1)]


@pytest.mark.parametrize(("size", "levels"), [(0, 0), (1, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 3)])
def test_the_number_of_levels(size: int, levels: int) -> None:
    assert len(log_tiles.tile_levels(size)) == levels


def test_a_tree_of_256_has_a_partial_tile_above_its_full_one() -> None:
    assert list(log_tiles.tiles(256, 0)) == [(0, 256)]
    assert list(log_tiles.tiles(256, 1)) == [(0, 1)]


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_a_bundle_is_split_into_its_entries(entries: list[bytes]) -> None:
    bundle = b"".join(map(log_tiles.frame_entry, entries))
    assert log_tiles.split_bundle(bundle, len(entries)) == entries
    for other in (bundle[:-1], bundle + b"\x00", bundle + b"\x00\x00", b""):
        with pytest.raises(Refusal):
            log_tiles.split_bundle(other, len(entries))
    with pytest.raises(Refusal):
        log_tiles.split_bundle(bundle, len(entries) + 1)


def test_a_bundle_of_a_real_log_hashes_to_its_tile() -> None:
    bundle = VECTORS / "tile" / "entries" / "000.p" / "15"
    if not bundle.exists():
        pytest.skip(f"vectors are not at {VECTORS}")
    hashes = [merkle.leaf_hash(entry) for entry in log_tiles.split_bundle(bundle.read_bytes(), 15)]
    assert b"".join(hashes) == (VECTORS / log_tiles.tile_path(0, 0, 15)).read_bytes()
