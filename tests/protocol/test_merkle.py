"""The Merkle tree agrees with RFC 6962, with others' vectors and with a tree written the naive way."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import log_tiles, merkle
from qflare_protocol.errors import Refusal

VECTORS = Path(os.environ.get("QFLARE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "merkle"
INCLUSION = sorted((VECTORS / "inclusion").rglob("*.json"))
CONSISTENCY = sorted((VECTORS / "consistency").rglob("*.json"))
ABSENT = [pytest.param(None, marks=pytest.mark.skip(reason=f"vectors are not at {VECTORS}"))]


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(str(number).encode()) for number in range(count)]


def naive_root(hashes: list[bytes]) -> bytes:
    if not hashes:
        return merkle.EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return merkle.node_hash(naive_root(hashes[:split]), naive_root(hashes[split:]))


def nodes_of(count: int) -> merkle.NodeLookup:
    tree, stored = merkle.CompactTree(), {}
    for leaf in leaves(count):
        for node in tree.append(leaf):
            assert (node.level, node.index) not in stored
            stored[node.level, node.index] = node.hash
    return lambda level, index: stored[level, index]


def refused(call: Any, *arguments: Any) -> bool:
    try:
        call(*arguments)
    except Refusal as refusal:
        assert refusal.code == "proof-refused"
        return True
    return False


def from_base64(value: str) -> bytes:
    return base64.b64decode(value or "")


def case_name(path: Path | None) -> str:
    return "absent" if path is None else str(path.relative_to(VECTORS))


@pytest.mark.parametrize("path", INCLUSION or ABSENT, ids=case_name)
def test_inclusion_vectors(path: Path) -> None:
    case = json.loads(path.read_text())
    proof = [from_base64(part) for part in case["proof"] or []]
    arguments = (from_base64(case["leafHash"]), case["leafIdx"], case["treeSize"], proof, from_base64(case["root"]))
    assert refused(merkle.verify_inclusion, *arguments) == case["wantErr"]


@pytest.mark.parametrize("path", CONSISTENCY or ABSENT, ids=case_name)
def test_consistency_vectors(path: Path) -> None:
    case = json.loads(path.read_text())
    proof = [from_base64(part) for part in case["proof"] or []]
    roots = from_base64(case["root1"]), from_base64(case["root2"])
    arguments = (case["size1"], roots[0], case["size2"], roots[1], proof)
    if case["desc"] == "sizes are equal (one) and proof is empty":
        arguments = (1, merkle.EMPTY_ROOT, 1, merkle.EMPTY_ROOT, proof)  # its own roots are not hashes at all
    assert refused(merkle.verify_consistency, *arguments) == case["wantErr"]


@pytest.fixture
def tiled_log() -> Path:
    """Return transparency-dev/tessera's test log of 15 entries, made by code of theirs."""
    if not (VECTORS / "log").is_dir():
        pytest.skip(f"vectors are not at {VECTORS}")
    return VECTORS / "log"


def tiled_leaves(log: Path, width: int) -> list[bytes]:
    """Return the leaf hashes of its first entries, computed from the entries."""
    bundle = (log / "tile" / "entries" / "000.p" / str(width)).read_bytes()
    return [merkle.leaf_hash(entry) for entry in log_tiles.split_bundle(bundle, width)]


def stated_root(log: Path, size: int) -> bytes:
    origin, stated, root = (log / f"checkpoint.{size}").read_text().split("\n")[:3]
    assert origin and stated == str(size)
    return from_base64(root)


@pytest.mark.parametrize("size", range(2, 16))
def test_a_tiled_log_of_others_is_read_and_has_the_roots_that_its_checkpoints_state(tiled_log: Path, size: int) -> None:
    tile = (tiled_log / "tile" / "0" / "000.p" / str(size)).read_bytes()
    assert b"".join(tiled_leaves(tiled_log, size)) == tile
    assert merkle.root_from_leaves(tiled_leaves(tiled_log, size)) == stated_root(tiled_log, size)


def test_its_empty_log_has_the_root_of_nothing(tiled_log: Path) -> None:
    assert stated_root(tiled_log, 0) == merkle.EMPTY_ROOT


def test_its_checkpoints_are_proved_to_continue_each_other_and_no_other_log(tiled_log: Path) -> None:
    growing, nodes = merkle.CompactTree(), {}
    for leaf in tiled_leaves(tiled_log, 15):
        nodes |= {(node.level, node.index): node.hash for node in growing.append(leaf)}
    for old in range(1, 15):
        proof = merkle.consistency_proof(old, 15, lambda level, index: nodes[level, index])
        roots = stated_root(tiled_log, old), stated_root(tiled_log, 15)
        merkle.verify_consistency(old, roots[0], 15, roots[1], proof)
        assert refused(merkle.verify_consistency, old, bytes(32), 15, roots[1], proof)
        assert refused(merkle.verify_consistency, old, roots[0], 15, stated_root(tiled_log, 14), proof)


def test_its_entries_are_proved_to_be_in_it_and_changed_ones_not(tiled_log: Path) -> None:
    leaves, growing, nodes = tiled_leaves(tiled_log, 15), merkle.CompactTree(), {}
    for leaf in leaves:
        nodes |= {(node.level, node.index): node.hash for node in growing.append(leaf)}
    for index, leaf in enumerate(leaves):
        proof = merkle.inclusion_proof(index, 15, lambda level, at: nodes[level, at])
        merkle.verify_inclusion(leaf, index, 15, proof, stated_root(tiled_log, 15))
        assert refused(merkle.verify_inclusion, merkle.leaf_hash(b"x"), index, 15, proof, stated_root(tiled_log, 15))
        assert refused(merkle.verify_inclusion, leaf, index, 15, proof, stated_root(tiled_log, 14))


def test_a_cut_bundle_of_it_is_refused(tiled_log: Path) -> None:
    bundle = (tiled_log / "tile" / "entries" / "000.p" / "15").read_bytes()
    for damaged in (bundle[:-1], bundle + b"\0", bundle[2:]):
        with pytest.raises(Refusal):
            log_tiles.split_bundle(damaged, 15)


@given(st.integers(0, 130))
def test_every_way_to_the_root_agrees_with_the_naive_tree(count: int) -> None:
    expected = naive_root(leaves(count))
    assert merkle.root_from_leaves(leaves(count)) == expected
    assert merkle.root_from_nodes(count, nodes_of(count)) == expected


@given(st.integers(1, 130), st.data())
def test_every_leaf_of_every_size_can_be_proved(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, nodes_of(130))
    merkle.verify_inclusion(leaves(size)[index], index, size, proof, naive_root(leaves(size)))
    wrong = data.draw(st.integers(0, size - 1).filter(lambda other: other != index)) if size > 1 else 1
    assert refused(merkle.verify_inclusion, leaves(size)[index], wrong, size, proof, naive_root(leaves(size)))


@given(st.integers(1, 130), st.data())
def test_every_tree_is_proved_consistent_with_every_earlier_one(size2: int, data: st.DataObject) -> None:
    size1 = data.draw(st.integers(1, size2))
    proof = merkle.consistency_proof(size1, size2, nodes_of(130))
    roots = naive_root(leaves(size1)), naive_root(leaves(size2))
    merkle.verify_consistency(size1, roots[0], size2, roots[1], proof)
    forged = naive_root([merkle.leaf_hash(b"forged"), *leaves(size2)[1:]])
    assert refused(merkle.verify_consistency, size1, roots[0], size2, forged, proof)
    assert refused(merkle.verify_consistency, size1, forged, size2, roots[1], proof)


@given(st.integers(2, 100), st.integers(0, 8), st.integers(0, 255), st.data())
def test_a_changed_bit_of_a_proof_is_refused(size: int, part: int, bit: int, data: st.DataObject) -> None:
    size1 = data.draw(st.integers(1, size - 1))
    proof = merkle.consistency_proof(size1, size, nodes_of(100))
    changed = int.from_bytes(proof[part % len(proof)], "big") ^ (1 << bit)
    proof[part % len(proof)] = changed.to_bytes(32, "big")
    roots = naive_root(leaves(size1)), naive_root(leaves(size))
    assert refused(merkle.verify_consistency, size1, roots[0], size, roots[1], proof)


@given(st.integers(0, 100), st.integers(0, 30))
def test_a_stored_tree_is_taken_up_where_it_stopped(size: int, more: int) -> None:
    tree = merkle.CompactTree.load(size, nodes_of(100))
    for leaf in leaves(size + more)[size:]:
        tree.append(leaf)
    assert (tree.size, tree.root()) == (size + more, naive_root(leaves(size + more)))


def test_a_proof_from_the_empty_tree_says_nothing_and_is_refused() -> None:
    assert refused(merkle.verify_consistency, 0, merkle.EMPTY_ROOT, 1, naive_root(leaves(1)), [])
    assert refused(merkle.verify_consistency, 0, merkle.EMPTY_ROOT, 0, merkle.EMPTY_ROOT, [])


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_no_proof_is_made_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(index, size, nodes_of(4))


@pytest.mark.parametrize(("size1", "size2"), [(0, 4), (5, 4), (-1, 4)])
def test_no_proof_is_made_between_trees_that_do_not_grow(size1: int, size2: int) -> None:
    with pytest.raises(ValueError, match="no consistency proof"):
        merkle.consistency_proof(size1, size2, nodes_of(4))


def test_proof_parts_that_are_not_hashes_are_refused() -> None:
    root = naive_root(leaves(2))
    assert refused(merkle.verify_inclusion, leaves(1)[0], 0, 2, [b"short"], root)
    assert refused(merkle.verify_inclusion, leaves(1)[0], 0, 2, ["text"], root)
