"""The blob store: complete or absent, and named by what it holds."""

import io
import os

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.errors import Refusal
from training.blobs import blob_path, delete_unreferenced_blobs, open_blob, pieces_of, store_blob


@pytest.fixture(autouse=True)
def store(tmp_path, settings):
    settings.QFLARE_BLOB_DIR = tmp_path / "blobs"
    return tmp_path / "blobs"


def files(store):
    return [path for path in store.rglob("*") if path.is_file()]


def test_a_blob_comes_back_as_it_was_stored(store):
    stored = store_blob([b"one", b"", b"two"])
    assert stored.digest == blake3.blake3(b"onetwo").hexdigest()
    assert stored.size_bytes == 6
    with open_blob(stored.digest) as blob:
        assert b"".join(pieces_of(blob)) == b"onetwo"
    assert files(store) == [blob_path(stored.digest)]


def test_the_same_blob_again_is_harmless(store):
    assert store_blob([b"one"]) == store_blob([b"o", b"ne"])
    assert len(files(store)) == 1


def test_a_blob_is_readable_by_its_owner_only(store):
    path = blob_path(store_blob([b"one"]).digest)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_other_bytes_than_expected_leave_nothing(store):
    with pytest.raises(Refusal, match="digest-mismatch"):
        store_blob([b"one"], expected_digest=bytes(32))
    assert files(store) == []


@pytest.mark.parametrize("expected_bytes", [2, 4])
def test_more_or_fewer_bytes_than_expected_leave_nothing(store, expected_bytes):
    with pytest.raises(Refusal, match="digest-mismatch"):
        store_blob([b"one"], expected_bytes=expected_bytes)
    assert files(store) == []


def test_far_more_bytes_than_expected_are_not_read_to_the_end(store):
    def endless():
        while True:
            yield bytes(1000)

    with pytest.raises(Refusal, match="digest-mismatch"):
        store_blob(endless(), expected_bytes=5000)
    assert files(store) == []


def test_a_stream_that_breaks_leaves_nothing(store):
    def broken():
        yield b"one"
        raise OSError("the device hung up")

    with pytest.raises(OSError, match="hung up"):
        store_blob(broken())
    assert files(store) == []


def test_a_blob_that_cannot_be_published_leaves_nothing(store, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store_blob([b"one"])
    assert files(store) == []


@given(st.text(max_size=70))
def test_no_name_leads_out_of_the_store(name):
    if len(name) == 64 and not set(name) - set("0123456789abcdef"):
        return
    for use in (blob_path, open_blob):
        with pytest.raises(Refusal, match="not-found"):
            use(name)


def test_pieces_are_bounded():
    assert [len(piece) for piece in pieces_of(io.BytesIO(bytes((1 << 20) + 1)))] == [1 << 20, 1]


def test_only_what_nothing_names_and_has_lain_for_long_is_deleted(store):
    kept, orphan = store_blob([b"kept"]).digest, store_blob([b"orphan"]).digest
    draft = store / ".draft-abc"
    draft.write_bytes(b"left by a killed writer")
    written = blob_path(orphan).stat().st_mtime
    assert delete_unreferenced_blobs({kept}, older_than_seconds=3600, now=written + 3500) == 0
    assert delete_unreferenced_blobs({kept}, older_than_seconds=3600, now=written + 3700) == 2
    assert files(store) == [blob_path(kept)]
