"""The Merkle tree agrees with RFC 6962, with others' vectors and with a tree written the naive way."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import merkle
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


def test_a_real_tiled_log_has_the_root_its_checkpoint_states() -> None:
    tile = VECTORS / "log" / "tile" / "0" / "000.p" / "15"
    if not tile.exists():
        pytest.skip(f"vectors are not at {VECTORS}")
    data = tile.read_bytes()
    stated = (VECTORS / "log" / "checkpoint.15").read_text().split("\n")[2]
    hashes = [data[at : at + 32] for at in range(0, len(data), 32)]
    assert merkle.root_from_leaves(hashes) == from_base64(stated)


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
