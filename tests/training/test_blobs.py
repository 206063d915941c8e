"""The blob store in a folder: what it leaves there, and who may read it; what every store does is tested beside."""

import io
import os
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.errors import Refusal
from training.blob_store.configured import blob_store
from training.blobs import blob_path, new_blob, pieces_of, store_blob


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


ABANDONED = uuid.UUID(int=2)


class TakenWhenSeen:
    """No digest and no upload is in it, and a file of that name is gone as soon as it is asked for."""

    def __init__(self, store, prefix):
        self.store, self.prefix = store, prefix

    def __contains__(self, name):
        file = self.store / (name if isinstance(name, str) else f"{self.prefix}{name.hex}")
        if file.name.startswith(self.prefix) and name != ABANDONED:
            file.unlink()
        return False


def test_a_draft_that_is_published_meanwhile_does_not_end_a_sweep(store):
    orphan = blob_path(store_blob([b"orphan"]).digest)
    in_an_hour = time.time() + 3600
    with new_blob() as draft:
        draft.write(b"one")
        taken = TakenWhenSeen(store, ".draft-")
        assert blob_store().delete_unreferenced(taken, older_than_seconds=60, now=in_an_hour) == 1
    assert not orphan.exists()


def test_an_upload_that_is_published_meanwhile_does_not_end_a_sweep(store):
    for upload in (uuid.UUID(int=1), ABANDONED):
        blob_store().append_piece(upload, io.BytesIO(b"one"), offset=0, length=3, present_offset=lambda: 0)
    in_an_hour = time.time() + 3600
    taken = TakenWhenSeen(store, ".upload-")
    assert blob_store().delete_abandoned_uploads(taken, older_than_seconds=60, now=in_an_hour) == 1
    assert files(store) == []


def test_a_store_that_nobody_has_written_to_is_swept(store):
    assert blob_store().delete_unreferenced(set(), older_than_seconds=60, now=time.time()) == 0
    assert blob_store().delete_abandoned_uploads(set(), older_than_seconds=60, now=time.time()) == 0
