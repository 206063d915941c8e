"""The blob store in a folder: what it leaves there, and who may read it; what every store does is tested beside."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.errors import Refusal
from training.blobs import blob_path, pieces_of, store_blob


@pytest.fixture(autouse=True)
def store(tmp_path, settings):
    settings.QFLARE_BLOB_DIR = tmp_path / "blobs"
    return tmp_path / "blobs"


def files(store):
    return [path for path in store.rglob("*") if path.is_file()]


def test_a_blob_is_readable_by_its_owner_only(store):
    path = blob_path(store_blob([b"one"]).digest)
    assert files(store) == [path]
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


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
    with pytest.raises(Refusal, match="not-found"):
        blob_path(name)


def test_pieces_are_bounded():
    assert [len(piece) for piece in pieces_of(io.BytesIO(bytes((1 << 20) + 1)))] == [1 << 20, 1]
