"""Shares combine from the threshold on, and a wrong one is noticed and never repeated."""

import json
import uuid
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from keyring.custodians import (
    Custodian,
    OpenedShare,
    make_custodian_key,
    open_share,
    read_custodian,
    read_opened_share,
    seal_share,
)
from keyring.shares import EscrowError, combine_secret, split_secret

SECRET = bytes(range(32))
ESCROW = uuid.UUID(int=7)
WORDS = split_secret(SECRET, threshold=2, count=3)


def test_any_two_of_three_combine_in_any_order_and_more_do_too() -> None:
    for pair in combinations(WORDS, 2):
        assert combine_secret(pair) == combine_secret(pair[::-1]) == SECRET
    assert combine_secret(WORDS) == SECRET
    assert {len(words.split()) for words in WORDS} == {33}


@examples(deadline=None, max_examples=10)
@given(secret=st.binary(min_size=32, max_size=32), threshold=st.integers(2, 5), more=st.integers(0, 3))
def test_every_threshold_gives_the_secret_back(secret: bytes, threshold: int, more: int) -> None:
    assert combine_secret(split_secret(secret, threshold=threshold, count=threshold + more)[more:]) == secret


@pytest.mark.parametrize(("threshold", "count"), [(1, 3), (0, 2), (4, 3), (2, 17), (2, 1)])
def test_a_threshold_that_protects_nothing_or_cannot_be_met_is_refused(threshold: int, count: int) -> None:
    with pytest.raises(EscrowError, match="A threshold lies between 2 and the number of custodians"):
        split_secret(SECRET, threshold=threshold, count=count)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_only_32_bytes_are_split(length: int) -> None:
    with pytest.raises(EscrowError, match="32 bytes"):
        split_secret(bytes(length), threshold=2, count=3)


def test_too_few_shares_are_refused_also_where_one_is_given_twice() -> None:
    with pytest.raises(EscrowError, match="2 different shares are needed; these are 1"):
        combine_secret([WORDS[0], WORDS[0]])
    with pytest.raises(EscrowError, match="There is no share to combine"):
        combine_secret([])


def test_a_wrong_word_is_noticed_and_not_repeated() -> None:
    first = WORDS[0].split()
    wrong = " ".join([*first[:10], "academic" if first[10] != "academic" else "acid", *first[11:]])
    for share in (wrong, " ".join(first[:-1]), WORDS[0] + " academic", "hello world", ""):
        with pytest.raises(EscrowError, match="Share 1 is not a valid mnemonic") as refusal:
            combine_secret([share, WORDS[1]])
        assert refusal.value.__cause__ is None
        assert refusal.value.__suppress_context__
        assert first[12] not in str(refusal.value)


def test_shares_of_two_splits_are_told_apart() -> None:
    others = split_secret(SECRET, threshold=2, count=3)
    with pytest.raises(EscrowError, match="different splits|do not combine"):
        combine_secret([WORDS[0], others[1]])


def test_shares_of_another_length_are_not_ours() -> None:
    from shamir_mnemonic import generate_mnemonics

    (mnemonics,) = generate_mnemonics(1, [(2, 2)], bytes(16))
    with pytest.raises(EscrowError, match="16 bytes instead of 32"):
        combine_secret(mnemonics)


# Custodians


@pytest.fixture(scope="module")
def keys() -> tuple[str, str]:
    return make_custodian_key()


@pytest.fixture(scope="module")
def sealed(keys: tuple[str, str]) -> str:
    return seal_share(read_custodian("carol", keys[1]), ESCROW, 2, WORDS[0])


def test_a_custodian_opens_what_was_sealed_to_them(keys: tuple[str, str], sealed: str) -> None:
    opened = open_share(sealed, keys[0])
    assert (opened.escrow_id, opened.words) == (ESCROW, WORDS[0])
    assert WORDS[0].split()[5] not in sealed
    assert read_opened_share(opened.to_text()) == opened


def test_a_share_names_its_custodian_and_escrow_in_the_clear(keys: tuple[str, str], sealed: str) -> None:
    members = json.loads(sealed)
    fingerprint = read_custodian("carol", keys[1]).fingerprint.hex()
    assert (members["custodian"], members["threshold"], members["escrow_id"]) == ("carol", 2, str(ESCROW))
    assert members["fingerprint"] == fingerprint


def test_another_custodian_cannot_open_it(sealed: str) -> None:
    with pytest.raises(EscrowError, match="The share does not open with this key"):
        open_share(sealed, make_custodian_key()[0])


@pytest.mark.parametrize(
    ("member", "value"),
    [("escrow_id", str(uuid.UUID(int=8))), ("custodian", "mallory"), ("threshold", 3), ("sealed_share", "AAAA")],
)
def test_a_share_whose_label_was_changed_does_not_open(
    keys: tuple[str, str], sealed: str, member: str, value: Any
) -> None:
    with pytest.raises(EscrowError, match="does not open"):
        open_share(json.dumps(json.loads(sealed) | {member: value}), keys[0])


@pytest.mark.parametrize(
    "members",
    [
        {"escrow_id": "x"},
        {"escrow_id": 7},
        {"threshold": None},
        {"threshold": 300},
        {"custodian": 7},
        {"custodian": ""},
    ],
)
def test_a_file_that_is_no_share_is_refused(keys: tuple[str, str], sealed: str, members: dict[str, Any]) -> None:
    with pytest.raises(EscrowError):
        open_share(json.dumps(json.loads(sealed) | members), keys[0])


@examples(deadline=None)
@given(st.one_of(st.text(max_size=60), st.recursive(st.none() | st.integers(), st.lists, max_leaves=5).map(json.dumps)))
def test_other_files_are_refused(text: str) -> None:
    for read in (lambda: open_share(text, text), lambda: read_custodian("carol", text)):
        with pytest.raises(EscrowError, match="is not a QFLARE"):
            read()
    with pytest.raises(EscrowError, match="one line: the escrow's id, then the words"):
        read_opened_share(text)


def test_a_private_file_is_no_public_one_and_the_other_way_round(keys: tuple[str, str], sealed: str) -> None:
    private, public = keys
    with pytest.raises(EscrowError, match="not a QFLARE escrow custodian public key"):
        read_custodian("carol", private)
    with pytest.raises(EscrowError, match="not a QFLARE escrow custodian private key"):
        open_share(sealed, public)


@pytest.mark.parametrize("name", ["", "-x", "../carol", "carol/..", "a b", "x" * 65, "carol\n"])
def test_a_custodian_s_name_is_a_safe_file_name(keys: tuple[str, str], name: str) -> None:
    with pytest.raises(EscrowError, match="is no name for a custodian"):
        read_custodian(name, keys[1])


@pytest.mark.parametrize("public", [b"", bytes(1665), bytes(10)])
def test_a_public_key_of_another_form_is_refused(public: bytes) -> None:
    import base64

    members = {"qflare": "escrow custodian public key", "algorithm": "MLKEM1024-P384"}
    text = json.dumps(members | {"public_key": base64.b64encode(public).decode()})
    with pytest.raises(EscrowError, match="The public key of carol cannot be used"):
        read_custodian("carol", text)


def test_no_share_shows_in_a_repr() -> None:
    shown = repr(OpenedShare(ESCROW, WORDS[0])) + repr(Custodian("carol", b"key"))
    assert WORDS[0].split()[5] not in shown
    assert "b'key'" not in shown


# Commands that need no database: these tests ask for none, so a query would fail them


def test_keygen_and_open_need_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "carol.key"
    call_command("escrow_custodian", "keygen", "--out", str(key))
    public = (tmp_path / "carol.key.pub").read_text()
    assert read_custodian("carol", public).fingerprint.hex() in capsys.readouterr().out
    assert key.stat().st_mode & 0o777 == 0o600
    (tmp_path / "share").write_text(seal_share(read_custodian("carol", public), ESCROW, 2, WORDS[0]))
    call_command("escrow_custodian", "open", str(tmp_path / "share"), "--key", str(key))
    assert capsys.readouterr().out == f"{ESCROW} {WORDS[0]}\n"
    call_command("escrow_custodian", "open", str(tmp_path / "share"), "--key", str(key), "--out", str(tmp_path / "o"))
    assert (tmp_path / "o").read_text() == f"{ESCROW} {WORDS[0]}\n"
    assert (tmp_path / "o").stat().st_mode & 0o777 == 0o600
    assert WORDS[0] not in capsys.readouterr().out


def test_an_existing_key_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "carol.key").write_text("precious")
    with pytest.raises(CommandError, match="carol.key: File exists"):
        call_command("escrow_custodian", "keygen", "--out", str(tmp_path / "carol.key"))
    assert (tmp_path / "carol.key").read_text() == "precious"


@pytest.mark.parametrize("content", [b"x" * 20_000, b"\xff\xfe", b"{}"])
def test_a_file_that_is_too_large_or_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CommandError, match="not a"):
        call_command("escrow_custodian", "open", str(tmp_path / "file"), "--key", str(tmp_path / "file"))
    with pytest.raises(CommandError, match="No such file"):
        call_command("escrow_custodian", "open", str(tmp_path / "absent"), "--key", str(tmp_path / "file"))
