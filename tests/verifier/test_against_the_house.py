"""The verifier was written apart from the house's code, and comes to the same verdicts."""

from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol import merkle
from qflare_protocol.audit_entry import AuditEntry, Disclosure
from qflare_protocol.checkpoint import Checkpoint, format_verifier_key, sign_checkpoint, verify_checkpoint
from qflare_protocol.cose import Verifier, sign1, verify1
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from tests.protocol.test_merkle import VECTORS
from tests.verifier.exports import LOG, ORIGIN, STRANGER
from verifier import qflare_verify as verifier
from verifier.qflare_verify import Key, Malformed, Note, read_cbor

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | TEXTS | st.binary(max_size=300)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.integers(0, 23), inner, max_size=4),
    max_leaves=12,
)


def house_reads(data: bytes) -> Any:
    try:
        return decode(data, what="test")
    except Refusal:
        return Malformed


def verifier_reads(data: bytes) -> Any:
    try:
        return read_cbor(data)
    except Malformed:
        return Malformed


@given(VALUES)
def test_it_reads_what_the_house_writes(value: Any) -> None:
    assert repr(verifier_reads(encode(value))) == repr(house_reads(encode(value)))


@given(VALUES, st.data())
def test_it_judges_damaged_encodings_as_the_house_does(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 2))
    damaged = bytes(encoded[: len(encoded) - cut])
    assert repr(verifier_reads(damaged)) == repr(house_reads(damaged))


@given(st.binary(max_size=12))
def test_it_judges_any_bytes_as_the_house_does(data: bytes) -> None:
    assert repr(verifier_reads(data)) == repr(house_reads(data))


NOT_DETERMINISTIC = (
    "1817", "190017", "1a00000017", "5f40ff", "c000", "f7", "fb3ff0000000000000", "fa7fc00000", "a2616200616100",
    "a2616100616100", "a1410000", "f97e01", "7800", "a118180018", "a11818f6", "82",
)  # fmt: skip


@pytest.mark.parametrize("encoded", NOT_DETERMINISTIC)
def test_encodings_that_are_not_deterministic_are_refused_by_both(encoded: str) -> None:
    assert verifier_reads(bytes.fromhex(encoded)) is house_reads(bytes.fromhex(encoded)) is Malformed


@pytest.mark.parametrize("depth", [15, 16, 17])
def test_it_draws_the_line_of_nesting_where_the_house_does(depth: int) -> None:
    data = b"\x81" * (depth - 1) + b"\x00"
    assert repr(verifier_reads(data)) == repr(house_reads(data))


def test_what_it_takes_for_a_plain_disclosure_is_one() -> None:
    plain = Disclosure(bytes(32), "device:alice", {"a": "x", "b": 3, "long": "y" * 90, "bb": ""}).to_bytes()
    assert verifier.is_plain_disclosure(plain)
    assert Disclosure.from_bytes(plain).actor == "device:alice"


@settings(max_examples=400)
@given(TEXTS, st.dictionaries(TEXTS, SCALARS, max_size=5), st.data())
def test_nothing_but_a_disclosure_is_taken_for_a_plain_one(actor: str, payload: dict[str, Any], data: Any) -> None:
    encoded = bytearray(encode([bytes(32), actor, payload]))
    for _ in range(data.draw(st.integers(0, 2))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    if verifier.is_plain_disclosure(bytes(encoded)):
        assert asdict(Disclosure.from_bytes(bytes(encoded)))
        assert verifier.read_disclosure(bytes(encoded))


@given(
    st.integers(0, 2**40),
    st.integers(-(2**50), 2**55),
    st.from_regex(r"[a-z][a-z_]{0,30}(\.[a-z]{1,9}){1,2}", fullmatch=True),
)
def test_it_reads_entries_as_the_house_does(index: int, time: int, kind: str) -> None:
    entry = AuditEntry(index, time, kind, b"c" * 64, b"p" * 64)
    assert verifier.read_entry(entry.to_bytes()) == verifier.Entry(*asdict(entry).values())
    chain = verifier.Chain()
    chain.size, chain.previous = index, b"p" * 64
    assert chain.take([entry.to_bytes()], "here") == ([time], [kind], [b"c" * 64])
    chain.size, chain.previous = index, b"p" * 64
    assert chain.take([entry.to_bytes()], "here") == ([time], [kind], [b"c" * 64])


def test_an_entry_of_the_usual_form_is_not_learnt_from_an_unusual_one() -> None:
    """A short time shifts what would stand where the kind does."""
    chain = verifier.Chain()
    short = AuditEntry(0, 1 << 20, "test.happened", bytes(64), bytes(64)).to_bytes()
    chain.take([short], "here")
    forged = AuditEntry(1, 1 << 40, "st.happened", bytes(64), chain.previous).to_bytes()
    assert chain.take([forged], "here")[1] == ["st.happened"]


def test_it_reads_keys_and_notes_as_the_house_does() -> None:
    line = format_verifier_key(ORIGIN, LOG.verifier)
    origin, key = verifier.read_verifier_key(line)
    assert (origin, key.public, key.fingerprint) == (ORIGIN, LOG.public, LOG.fingerprint)
    text = sign_checkpoint(LOG, Checkpoint(ORIGIN, 7, b"r" * 32), 1_800_000_000)
    house, note = verify_checkpoint(text, LOG.verifier, ORIGIN), Note.parse(text).verified(key)
    assert (note.size, note.root, note.time) == (house.checkpoint.size, house.checkpoint.root, house.timestamp)
    with pytest.raises(Malformed, match="is not signed by the key"):
        Note.parse(text).verified(Key(STRANGER.public))


@given(st.integers(0, 400), st.sampled_from(["\n", "0", "A", "+", " ", "\N{EM DASH}", "="]))
def test_a_changed_note_is_refused_by_both_or_by_neither(at: int, character: str) -> None:
    text = NOTE[:at] + character + NOTE[at + 1 :]
    try:
        verify_checkpoint(text, LOG.verifier, ORIGIN)
        accepted = True
    except Refusal:
        accepted = False
    try:
        note = Note.parse(text)
        mine = note.origin == ORIGIN and bool(note.verified(Key(LOG.public)).time)
    except Malformed:
        mine = False
    assert mine == accepted


NOTE = sign_checkpoint(LOG, Checkpoint(ORIGIN, 70, b"r" * 32), 1_800_000_000)


def test_it_reads_signed_structures_as_the_house_does() -> None:
    signed = sign1(LOG, {"a": 1}, purpose="round result")
    assert verifier.read_sign1(signed, Key(LOG.public), "round result") == {"a": 1}
    for key, purpose in ((Key(STRANGER.public), "round result"), (Key(LOG.public), "M1")):
        with pytest.raises(Malformed):
            verifier.read_sign1(signed, key, purpose)
        with pytest.raises(Refusal):
            verify1(Verifier("ML-DSA-44", key.public), signed, purpose=purpose)


@given(st.integers(1, 300), st.data())
def test_it_follows_inclusion_proofs_as_the_house_does(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = [merkle.leaf_hash(str(number).encode()) for number in range(size)]
    tree, nodes = merkle.CompactTree(), {}
    for leaf in leaves:
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}
    proof = merkle.inclusion_proof(index, size, lambda level, at: nodes[level, at])
    assert verifier.root_from_inclusion(leaves[index], index, size, proof) == tree.root()
    for wrong in (proof[:-1], [*proof, bytes(32)], proof[::-1]):
        if wrong != proof:
            try:
                root = verifier.root_from_inclusion(leaves[index], index, size, wrong)
            except Malformed:
                continue
            assert root != tree.root()


def test_it_reads_the_tiles_of_a_log_that_others_made(merkle_vectors: Path) -> None:
    """transparency-dev/tessera's test log: the root over its 15 entries is the one its checkpoint states."""
    bundle = (merkle_vectors / "log" / "tile" / "entries" / "000.p" / "15").read_bytes()
    entries = verifier.split_bundle(bundle)
    levels = verifier.subtrees([verifier.leaf_hash(data) for data in entries])
    assert b"".join(levels[0]) == (merkle_vectors / "log" / "tile" / "0" / "000.p" / "15").read_bytes()
    for size in range(1, 16):
        stated = (merkle_vectors / "log" / f"checkpoint.{size}").read_text().split("\n")
        assert (stated[1], stated[2]) == (str(size), b64encode(verifier.Tree().root(levels, size)).decode())


@pytest.fixture
def merkle_vectors() -> Path:
    if not (VECTORS / "log").is_dir():
        pytest.skip(f"vectors are not at {VECTORS}")
    return VECTORS
