"""What every blob store does, on a folder and on a bucket: complete or absent, and named by what it holds."""

import io
import os
import time
import uuid

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.errors import Refusal
from tests.bucket import bucket, each_store, new_bucket, object_store, stored_names
from training.blob_store import s3
from training.blob_store.configured import blob_store
from training.blob_store.contract import pieces_of
from training.blob_store.s3 import PieceRange, chain_of
from training.blobs import new_blob, open_blob, opener_of, store_blob

__all__ = ["bucket", "each_store", "new_bucket", "object_store"]

UPLOAD = uuid.UUID(int=7)
TOTAL = b"three pieces make the whole"


@pytest.fixture(autouse=True)
def store(each_store):
    return blob_store()


@pytest.fixture
def small_parts(monkeypatch):
    """A bucket takes a draft in parts, as it does with large blobs; parts have at least 5 MiB but for the last."""
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    return os.urandom(1 << 20) * 12


def put(offset, piece, present=None):
    whole = io.BytesIO(piece)
    offset_now = offset if present is None else present
    return blob_store().append_piece(UPLOAD, whole, offset=offset, length=len(piece), present_offset=lambda: offset_now)


def published(whole=TOTAL):
    return blob_store().publish_upload(UPLOAD, digest=blake3.blake3(whole).digest(), total_bytes=len(whole))


def content(digest):
    with open_blob(digest) as blob:
        return b"".join(pieces_of(blob))


def test_a_blob_comes_back_as_it_was_stored(store):
    stored = store_blob([b"one", b"", b"two"])
    assert stored.digest == blake3.blake3(b"onetwo").hexdigest()
    assert stored.size_bytes == store.size_of(stored.digest) == 6
    assert content(stored.digest) == b"onetwo"
    assert len(stored_names()) == 1


def test_a_blob_of_no_bytes_is_a_blob(store):
    assert content(store_blob([]).digest) == b""


def test_a_blob_in_many_parts_comes_back_as_it_was_stored(store, small_parts):
    stored = store_blob(pieces_of(io.BytesIO(small_parts)))
    assert stored.digest == blake3.blake3(small_parts).hexdigest()
    assert content(stored.digest) == small_parts
    assert len(stored_names()) == 1


def test_the_same_blob_again_is_harmless():
    assert store_blob([b"one"]) == store_blob([b"o", b"ne"])
    assert len(stored_names()) == 1


def test_other_bytes_than_expected_leave_nothing():
    with pytest.raises(Refusal, match="digest-mismatch"):
        store_blob([b"one"], expected_digest=bytes(32))
    assert stored_names() == set()


@pytest.mark.parametrize("expected_bytes", [2, 4])
def test_more_or_fewer_bytes_than_expected_leave_nothing(expected_bytes):
    with pytest.raises(Refusal, match="digest-mismatch"):
        store_blob([b"one"], expected_bytes=expected_bytes)
    assert stored_names() == set()


def test_far_more_bytes_than_expected_are_not_read_to_the_end():
    def endless():
        while True:
            yield bytes(1000)

    with pytest.raises(Refusal, match="digest-mismatch"):
        store_blob(endless(), expected_bytes=5000)
    assert stored_names() == set()


def test_a_stream_that_breaks_leaves_nothing(small_parts):
    def broken():
        yield small_parts
        assert stored_names()  # it has begun to arrive
        raise OSError("the device hung up")

    with pytest.raises(OSError, match="hung up"):
        store_blob(broken())
    assert stored_names() == set()


@given(name=st.text(max_size=70))
def test_what_is_no_digest_names_no_blob(name):
    if len(name) == 64 and not set(name) - set("0123456789abcdef"):
        return
    store = blob_store()
    uses = (
        store.open, store.open_file, store.size_of, store.refresh, store.download_address,
        lambda name: store.pieces_between(name, range(1)),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(Refusal, match="not-found"):
            use(name)


def test_a_blob_there_is_not_is_refused_at_once(store):
    digest = "0" * 64
    assert store.size_of(digest) is None
    assert store.refresh(digest) is False
    for use in (store.open, store.open_file, lambda name: store.pieces_between(name, range(1))):
        with pytest.raises(Refusal, match="not-found"):
            use(digest)


def test_a_part_of_a_blob_is_read_without_the_rest(store):
    digest = store_blob([bytes(range(200))]).digest
    assert b"".join(store.pieces_between(digest, range(3, 60))) == bytes(range(3, 60))
    assert b"".join(store.pieces_between(digest, range(199, 200))) == b"\xc7"


def test_a_blob_can_be_given_to_another_process_as_an_open_file(small_parts):
    with opener_of(store_blob([small_parts]).digest)() as file:
        assert os.pread(file.fileno(), len(small_parts) + 1, 0) == small_parts
        assert os.fstat(file.fileno()).st_size == len(small_parts)


def test_only_what_nothing_names_and_has_lain_for_long_is_deleted(store):
    kept, orphan = store_blob([b"kept"]).digest, store_blob([b"orphan"]).digest
    now = time.time()
    assert store.delete_unreferenced({kept}, older_than_seconds=3600, now=now + 3500) == 0
    assert store.delete_unreferenced({kept}, older_than_seconds=3600, now=now + 3700) == 1
    assert store.size_of(orphan) is None
    assert content(kept) == b"kept"


def test_what_a_killed_writer_left_is_deleted_in_time(each_store, store, small_parts):
    draft = new_blob()
    draft.__enter__()
    draft.write(small_parts)
    left, now = stored_names(), time.time()
    assert left
    if each_store == "folder":  # moto says of every unfinished object that it was begun in 2010
        assert store.delete_unreferenced(set(), older_than_seconds=3600, now=now + 3500) == 0
    assert store.delete_unreferenced(set(), older_than_seconds=3600, now=now + 3700) == len(left)
    assert stored_names() == set()
    draft.__exit__()


def test_a_refreshed_blob_looks_as_if_it_were_written_now(store):
    digest = store_blob([b"one"]).digest
    time.sleep(2.1)  # a bucket's clock shows whole seconds
    refreshed = time.time()
    assert store.refresh(digest) is True
    assert store.delete_unreferenced(set(), older_than_seconds=1.5, now=refreshed) == 0
    assert content(digest) == b"one"


def test_pieces_become_a_blob(store):
    assert put(0, TOTAL[:6]), put(6, TOTAL[6:13])
    assert put(6, TOTAL[6:13])
    assert store.stored_bytes(UPLOAD, at_most=100) == 13
    assert put(13, TOTAL[13:])
    assert published()
    assert content(blake3.blake3(TOTAL).hexdigest()) == TOTAL
    assert len(stored_names()) == 1


def test_a_piece_again_in_another_length_does_no_harm(store):
    put(0, TOTAL[:10])
    put(0, TOTAL[:4])
    put(4, TOTAL[4:])
    assert published()


def test_an_upload_that_lacks_bytes_is_not_published_and_keeps_what_it_has(store):
    put(0, TOTAL[:10])
    assert not published()
    assert store.stored_bytes(UPLOAD, at_most=100) == 10
    assert store.stored_bytes(UPLOAD, at_most=10) == 10
    assert store.stored_bytes(uuid.UUID(int=8), at_most=100) == 0


def test_an_upload_that_was_published_is_not_there_again(store):
    put(0, TOTAL)
    assert published()
    assert not published()
    assert len(stored_names()) == 1


def test_an_upload_of_other_bytes_is_thrown_away(store):
    put(0, b"x" * len(TOTAL))
    with pytest.raises(Refusal, match="digest-mismatch"):
        published()
    assert stored_names() == set()


def test_a_piece_that_comes_late_is_not_written(store):
    put(0, TOTAL[:10])
    assert not put(0, b"late", present=10)
    put(10, TOTAL[10:])
    assert published()


def test_what_an_upload_leaves_can_be_discarded(store):
    put(0, TOTAL[:3])
    put(3, TOTAL[3:])
    store.discard_upload(UPLOAD)
    store.discard_upload(UPLOAD)
    assert stored_names() == set()


def test_only_bytes_that_no_upload_owns_are_deleted_and_only_after_long(store):
    put(0, TOTAL)
    now = time.time()
    assert store.delete_abandoned_uploads({UPLOAD}, older_than_seconds=3600, now=now + 7200) == 0
    assert store.delete_abandoned_uploads(set(), older_than_seconds=3600, now=now + 3500) == 0
    assert store.delete_abandoned_uploads(set(), older_than_seconds=3600, now=now + 3700) == 1
    assert stored_names() == set()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6))), st.integers(1, 12))
def test_a_chain_of_pieces_is_found_where_there_is_one(ranges, end):
    pieces = [PieceRange(start, start + length) for start, length in ranges]
    reached = {0}
    for _ in pieces:
        reached |= {piece.end for piece in pieces if piece.start in reached}
    chain = chain_of(pieces, end)
    assert (chain is not None) == (end in reached)
    if chain is not None:
        assert [piece.start for piece in chain] == [0, *(piece.end for piece in chain[:-1])]
        assert chain[-1].end == end
        assert set(chain) <= set(pieces)
