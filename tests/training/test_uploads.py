"""Uploads in pieces: what is acknowledged is on disk, what is lost is asked for, and an update counts once."""

import io
import threading
import uuid
from dataclasses import replace
from datetime import timedelta

import blake3
import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audit.models import Event
from qflare_protocol.cose import verify1
from qflare_protocol.encoding import frame
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import manifest_digest
from tests.bucket import bucket, each_store, new_bucket, object_store, stored_names
from tests.open_rounds import SEALED, Submission, send_submission
from tests.people import OPERATOR, assert_refused, nothing_changed
from training.blob_store.configured import blob_store
from training.blobs import open_blob
from training.models import Participation, Round, Update, Upload
from training.services import uploads
from training.services.blob_sweep import sweep_blobs
from training.services.rounds import cancel_round

__all__ = ["bucket", "each_store", "new_bucket", "object_store"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("each_store")]

PIECE = "application/vnd.qflare.update-piece"
HALF = len(SEALED) // 2


@pytest.fixture
def line(running, alice):
    return alice.line()


@pytest.fixture
def honest(running, alice):
    return Submission(running, alice)


@pytest.fixture
def manifest(honest):
    return honest.manifest()


@pytest.fixture
def begun(line, manifest):
    return begin(line, manifest).message["upload_id"]


def content(digest):
    with open_blob(digest) as blob:
        return blob.read()


def has_bytes(upload_id):
    return any(upload_id.hex() in name for name in stored_names())


def lose_all_but(upload_id, present):
    """Let the store forget an upload's bytes, as a restored backup would."""
    store, owner = blob_store(), uuid.UUID(bytes=upload_id)
    store.discard_upload(owner)
    store.append_piece(owner, io.BytesIO(present), offset=0, length=len(present), present_offset=lambda: 0)


def begin(line, manifest):
    return line.ask("/api/uploads", {"manifest": manifest})


def send(line, upload_id, offset, piece, content_type=PIECE):
    path = f"/api/uploads/{upload_id.hex()}?offset={offset}"
    return line.ask(path, method="PATCH", body=piece, content_type=content_type)


def status(line, upload_id):
    return line.ask(f"/api/uploads/{upload_id.hex()}", method="GET", body=b"", content_type="")


def test_an_update_in_pieces_is_counted_with_its_last(alice, line, manifest, running, settings):
    begun = begin(line, manifest).message
    assert (begun["offset"], begun["piece_bytes"]) == (0, settings.QFLARE_UPLOAD_PIECE_BYTES)
    assert begun["expires_at"] == int(running.deadline_at.timestamp())
    assert send(line, begun["upload_id"], 0, SEALED[:HALF]).message == {"offset": HALF}
    assert not Update.objects.exists()
    answer = send(line, begun["upload_id"], HALF, SEALED[HALF:]).message
    receipt = verify1(alice.identity.identity, answer["receipt"], purpose="update receipt")
    update = Update.objects.get()
    assert receipt["manifest_digest"] == bytes(update.manifest_digest) == manifest_digest(manifest)
    assert content(update.blob_digest) == SEALED
    assert Round.objects.get().submissions == 1
    assert Event.objects.filter(kind="update.received").count() == 1
    assert not Upload.objects.exists()
    assert not has_bytes(begun["upload_id"])


def test_an_upload_begun_again_goes_on_where_it_ends(alice, line, manifest, begun):
    send(line, begun, 0, SEALED[:HALF])
    other = alice.line()
    again = begin(other, manifest).message
    assert (again["upload_id"], again["offset"]) == (begun, HALF)
    assert status(other, begun).message == again


def test_a_piece_that_was_stored_is_answered_with_the_present_offset(line, begun):
    send(line, begun, 0, SEALED[:HALF])
    with_more = send(line, begun, 0, b"x" * HALF)
    assert with_more.message == {"offset": HALF}
    assert "receipt" in send(line, begun, HALF, SEALED[HALF:]).message


def test_a_piece_beyond_the_end_is_refused_with_the_offset(line, begun):
    send(line, begun, 0, SEALED[:10])
    with nothing_changed():
        problem = assert_refused(send(line, begun, 11, SEALED[11:20]), "upload-offset-mismatch")
        assert problem["offset"] == 10


def test_an_update_the_server_has_is_answered_with_its_receipt_at_once(line, honest, manifest):
    first = send_submission(line, frame(manifest) + SEALED).message
    assert begin(line, manifest).message == first
    assert not Upload.objects.exists()


def test_another_update_than_the_one_counted_is_refused(line, honest):
    honest.hand_in(line)
    with nothing_changed():
        assert_refused(begin(line, replace(honest, claims={"sample_count": 99}).manifest()), "already-submitted")


def test_an_update_sealed_anew_takes_the_place_of_the_first(
    line, honest, manifest, begun, django_capture_on_commit_callbacks
):
    send(line, begun, 0, SEALED[:HALF])
    with django_capture_on_commit_callbacks(execute=True):
        other = begin(line, replace(honest, claims={"sample_count": 99}).manifest()).message
    assert other["offset"] == 0
    assert other["upload_id"] != begun
    assert not has_bytes(begun)
    assert_refused(send(line, begun, HALF, SEALED[HALF:]), "not-found")


def test_everything_is_checked_before_the_first_byte(line, honest, carol):
    for forged, code in (
        (replace(honest, claims={"base_model_digest": bytes(32)}), "base-model-mismatch"),
        (replace(honest, claims={"enclave_key_id": bytes(32)}), "enclave-key-mismatch"),
        (replace(honest, claims={"sample_count": 10**9}), "sample-count-refused"),
        (replace(honest, claims={"ciphertext_bytes": 5000}), "update-too-large"),
        (replace(honest, signer=carol.identity.keys.signer), "invalid-signature"),
        (replace(honest, person=carol), "not-invited"),
    ):
        with nothing_changed():
            assert_refused(begin(line, forged.manifest()), code)


def test_a_round_that_ends_takes_no_further_piece(line, honest, manifest, begun):
    send(line, begun, 0, SEALED[:HALF])
    cancel_round(honest.round.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
    with nothing_changed():
        assert_refused(send(line, begun, HALF, SEALED[HALF:]), "round-closed")
        assert_refused(begin(line, manifest), "round-closed")


def test_the_upload_of_another_device_looks_like_none(carol, begun):
    theirs = carol.line()
    with nothing_changed():
        assert_refused(send(theirs, begun, 0, SEALED[:HALF]), "not-found")
        assert_refused(status(theirs, begun), "not-found")


@pytest.mark.parametrize(
    "query", ["", "?offset=", "?offset=-1", "?offset=x", "?offset=1.0", "?offset=1000000000000000"]
)
def test_an_offset_out_of_form_is_refused(line, begun, query):
    with nothing_changed():
        path = f"/api/uploads/{begun.hex()}{query}"
        assert_refused(line.ask(path, method="PATCH", body=b"x", content_type=PIECE), "malformed-message")


@pytest.mark.parametrize("upload_id", ["x", "0" * 32, "%00"])
def test_an_upload_there_is_not_is_refused(line, upload_id):
    with nothing_changed():
        path = f"/api/uploads/{upload_id}?offset=0"
        assert_refused(line.ask(path, method="PATCH", body=b"x", content_type=PIECE), "not-found")


@pytest.mark.parametrize("piece", [b"", SEALED + b"x"])
def test_a_piece_of_no_bytes_or_too_many_is_refused(line, begun, piece):
    with nothing_changed():
        assert_refused(send(line, begun, 0, piece), "malformed-message")


def test_a_piece_above_the_sites_size_is_refused_before_it_is_read(line, begun, settings):
    settings.QFLARE_UPLOAD_PIECE_BYTES = 10
    with nothing_changed():
        path = f"/api/uploads/{begun.hex()}?offset=0"
        request = line.seal(path, method="PATCH", body=SEALED[:11], content_type=PIECE)
        assert_refused(line.send(request), "message-too-large")


def test_a_piece_travels_under_its_own_content_type(line, begun):
    with nothing_changed():
        assert_refused(send(line, begun, 0, SEALED[:5], "application/octet-stream"), "unsupported-media-type")


@pytest.mark.parametrize("message", [{}, {"manifest": "text"}, {"manifest": b"", "more": 1}, {"manifest": b"x" * 99}])
def test_a_beginning_out_of_form_is_refused(line, message):
    with nothing_changed():
        assert_refused(line.ask("/api/uploads", message), "malformed-message")


def test_other_bytes_than_the_manifest_names_are_thrown_away_and_may_be_sent_again(line, manifest, begun):
    assert_refused(send(line, begun, 0, b"x" * len(SEALED)), "digest-mismatch")
    assert not has_bytes(begun)
    assert begin(line, manifest).message["offset"] == 0
    assert "receipt" in send(line, begun, 0, SEALED).message


def test_bytes_that_were_lost_are_asked_for_again(line, manifest, begun):
    send(line, begun, 0, SEALED[:HALF])
    lose_all_but(begun, SEALED[:7])
    problem = assert_refused(send(line, begun, HALF, SEALED[HALF:]), "upload-offset-mismatch")
    assert problem["offset"] == 7
    assert begin(line, manifest).message["offset"] == 7
    assert "receipt" in send(line, begun, 7, SEALED[7:]).message


def test_bytes_on_disk_that_were_not_acknowledged_are_written_over(line, manifest, begun):
    lose_all_but(begun, b"of a request that was cut off")
    assert begin(line, manifest).message["offset"] == 0
    assert "receipt" in send(line, begun, 0, SEALED).message


def test_an_update_published_by_a_server_that_died_is_counted_when_its_last_piece_comes_again(
    alice, line, manifest, begun
):
    send(line, begun, 0, SEALED[:HALF])
    upload_id, rest = uuid.UUID(bytes=begun), SEALED[HALF:]
    uploads.receive_piece(alice.device, upload_id, io.BytesIO(rest), offset=HALF, length=len(rest), now=timezone.now())
    assert (Upload.objects.get().offset_bytes, Update.objects.count()) == (HALF, 0)
    assert begin(line, manifest).message["offset"] == HALF
    assert "receipt" in send(line, begun, HALF, rest).message
    assert Round.objects.get().submissions == 1
    assert not Upload.objects.exists()


def test_of_two_requests_with_the_same_piece_one_moves_the_offset(alice, begun):
    upload_id, now = uuid.UUID(bytes=begun), timezone.now()

    def received():
        piece = io.BytesIO(SEALED[:HALF])
        return uploads.receive_piece(alice.device, upload_id, piece, offset=0, length=HALF, now=now)

    first, second = received(), received()
    assert uploads.record_piece(alice.device, first, now=now) == {"offset": HALF}
    assert uploads.record_piece(alice.device, second, now=now) == {"offset": HALF}


def test_a_late_writer_cuts_off_nothing_that_was_acknowledged(line, begun):
    send(line, begun, 0, SEALED[:HALF])
    written = blob_store().append_piece(
        uuid.UUID(bytes=begun), io.BytesIO(b"late"), offset=0, length=4, present_offset=lambda: HALF
    )
    assert not written
    assert "receipt" in send(line, begun, HALF, SEALED[HALF:]).message


def test_two_last_pieces_count_one_update_and_get_one_receipt(alice, line, begun, monkeypatch):
    upload_id, now = uuid.UUID(bytes=begun), timezone.now()

    def received():
        piece = io.BytesIO(SEALED)
        return uploads.receive_piece(alice.device, upload_id, piece, offset=0, length=len(SEALED), now=now)

    first, second = received(), received()
    one = uploads.record_piece(alice.device, first, now=now)
    assert uploads.record_piece(alice.device, second, now=now) == one
    assert Round.objects.get().submissions == 1


def test_a_last_piece_that_is_overtaken_between_writing_and_publishing_costs_nothing(line, begun):
    store, upload_id, digest = blob_store(), uuid.UUID(bytes=begun), blake3.blake3(SEALED).digest()
    for _ in ("the faster one", "the one that wrote before, and publishes after it"):
        piece = io.BytesIO(SEALED)
        store.append_piece(upload_id, piece, offset=0, length=len(SEALED), present_offset=lambda: 0)
    for _ in range(2):
        store.publish_upload(upload_id, digest=digest, total_bytes=len(SEALED))
    with store.open(digest.hex()) as blob:
        assert blob.read() == SEALED
    assert store.stored_bytes(upload_id, at_most=len(SEALED)) == 0


def test_an_upload_that_is_whole_is_no_row_of_its_own(begun):
    with pytest.raises(IntegrityError), transaction.atomic():
        Upload.objects.update(offset_bytes=len(SEALED))


def test_uploads_of_rounds_that_are_over_are_collected(line, honest, begun):
    send(line, begun, 0, SEALED[:HALF])
    later = timezone.now() + timedelta(hours=2)
    Round.objects.update(deadline_at=later + timedelta(hours=1))
    sweep_blobs(now=later)
    assert has_bytes(begun)
    assert Upload.objects.exists()
    cancel_round(honest.round.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
    sweep_blobs(now=later)
    assert not has_bytes(begun)
    assert not Upload.objects.exists()


def test_bytes_that_no_upload_owns_are_collected_once_they_are_old(line, begun):
    orphan = uuid.uuid4()
    lose_all_but(orphan.bytes, b"left over")
    sweep_blobs(now=timezone.now())
    assert has_bytes(orphan.bytes)
    sweep_blobs(now=timezone.now() + timedelta(hours=2))
    assert not has_bytes(orphan.bytes)


@given(st.lists(st.tuples(st.integers(0, len(SEALED)), st.integers(1, 80)), max_size=12))
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_in_any_order_and_size_make_the_update_or_are_refused(alice, running, attempts):
    submission, now = Submission(running, alice), timezone.now()
    device, manifest = alice.device, submission.manifest()
    upload_id = uuid.UUID(bytes=uploads.begin_upload(device, manifest, now=now)["upload_id"])

    def deliver(offset, size):
        piece = SEALED[offset : offset + size]
        received = uploads.receive_piece(
            device, upload_id, io.BytesIO(piece), offset=offset, length=len(piece), now=now
        )
        return uploads.record_piece(device, received, now=now)

    for offset, size in attempts:
        end = Upload.objects.get(id=upload_id).offset_bytes
        try:
            answer = deliver(offset, size)
        except Refusal as refusal:
            assert refusal.code in {"upload-offset-mismatch", "malformed-message"}
            assert offset > end or not SEALED[offset : offset + size]
            continue
        if "receipt" in answer:
            break
        assert answer["offset"] == (min(end + size, len(SEALED)) if offset == end else end)
    else:
        end = Upload.objects.get(id=upload_id).offset_bytes
        assert "receipt" in deliver(end, len(SEALED) - end)
    assert content(Update.objects.get().blob_digest) == SEALED
    Update.objects.all().delete()
    Participation.objects.filter(device=device).update(state="invited")


@pytest.mark.django_db(transaction=True)
def test_devices_threads_that_race_count_one_update(running, alice):
    """Two processes of a device, or a repeated request that overtakes the first: both are answered, one counts."""
    now, device = timezone.now(), alice.device
    manifest = Submission(running, alice).manifest()
    upload_id = uuid.UUID(bytes=uploads.begin_upload(device, manifest, now=now)["upload_id"])
    answers, barrier = [], threading.Barrier(3)

    def bring_all():
        try:
            barrier.wait()
            for offset, end in ((0, HALF), (HALF, len(SEALED))):
                piece = SEALED[offset:end]
                try:
                    received = uploads.receive_piece(
                        device, upload_id, io.BytesIO(piece), offset=offset, length=len(piece), now=now
                    )
                    answers.append(uploads.record_piece(device, received, now=now))
                except Refusal as refusal:
                    answers.append(refusal.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=bring_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    receipts = [answer["receipt"] for answer in answers if "receipt" in answer]
    assert receipts
    assert len(set(receipts)) == 1
    assert set(map(str, answers)) <= {
        str({"receipt": receipts[0]}),
        str({"offset": HALF}),
        "not-found",
        "upload-offset-mismatch",
    }
    assert Round.objects.get().submissions == 1
    assert content(Update.objects.get().blob_digest) == SEALED
