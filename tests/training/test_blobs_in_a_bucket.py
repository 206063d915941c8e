"""A site whose blobs lie in an S3 bucket: addresses for devices, whole rounds, backups, and a store that is away."""

from datetime import timedelta

import httpx
import pytest
from django.core.checks import run_checks
from django.test import Client
from django.utils import timezone

from qflare_protocol.encoding import frame
from tests.bucket import bucket, new_bucket, object_store, stored_names
from tests.open_rounds import SEALED, Submission, send_submission
from tests.people import assert_refused, nothing_changed
from tests.training.test_uploads import HALF, PIECE, begin, content, send
from tests.training.whole_rounds import HONEST, collected
from training import checks
from training.blob_store.configured import blob_store
from training.models import ModelVersion, Round, Update, Upload
from training.services import steps
from training.services.blob_sweep import sweep_blobs
from training.services.round_sources import load_model

__all__ = ["bucket", "new_bucket", "object_store"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("bucket")]


@pytest.fixture
def line(running, alice):
    return alice.line()


@pytest.fixture
def manifest(running, alice):
    return Submission(running, alice).manifest()


def get_blob(digest, **headers):
    return Client().get(f"/api/blobs/{digest}", headers=headers)


def begin_direct(line, manifest):
    return line.ask("/api/uploads", {"manifest": manifest, "direct": True})


def tell(line, upload_id, offset, length):
    path = f"/api/uploads/{upload_id.hex()}?offset={offset}&stored={length}"
    return line.ask(path, method="PATCH", body=b"", content_type=PIECE)


def test_a_device_is_sent_to_the_store_for_a_model(federation):
    digest = ModelVersion.objects.get().blob_digest
    answer = get_blob(digest)
    assert answer.status_code == 307
    assert answer["Cache-Control"] == "no-store"
    assert httpx.get(answer["Location"]).content == content(digest)
    part = httpx.get(answer["Location"], headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, content(digest)[3:10])


def test_an_address_serves_that_blob_and_for_five_minutes(federation):
    digest = ModelVersion.objects.get().blob_digest
    address = httpx.URL(get_blob(digest)["Location"])
    assert digest in address.path
    assert address.params["X-Amz-Expires"] == "300"
    assert address.params["X-Amz-SignedHeaders"] == "host"


def test_nobody_is_sent_to_the_store_for_what_is_no_model(running, alice):
    Submission(running, alice).hand_in(alice.line())
    assert get_blob(Update.objects.get().blob_digest).status_code == 404


def test_the_web_sends_models_itself_where_redirects_are_off(federation, settings):
    settings.QFLARE_BLOB_REDIRECT = False
    digest = ModelVersion.objects.get().blob_digest
    whole, part = get_blob(digest), get_blob(digest, Range="bytes=3-9")
    assert (whole.status_code, whole.getvalue()) == (200, content(digest))
    assert (part.status_code, part.getvalue()) == (206, content(digest)[3:10])
    assert part["Content-Range"] == f"bytes 3-9/{len(content(digest))}"


def test_a_blob_that_was_lost_is_not_a_server_error(federation, settings):
    settings.QFLARE_BLOB_REDIRECT = False
    for name in stored_names():
        blob_store().bucket.remove(name)
    assert get_blob(ModelVersion.objects.get().blob_digest).status_code == 404


def test_a_device_puts_its_pieces_into_the_store_itself(line, manifest, settings):
    settings.QFLARE_UPLOAD_PIECE_BYTES = HALF
    answer = begin_direct(line, manifest).message
    upload_id, offset = answer["upload_id"], 0
    while "receipt" not in answer:
        piece = SEALED[offset : offset + answer["put_bytes"]]
        assert len(piece) == answer["put_bytes"]
        assert httpx.put(answer["put_url"], content=piece).status_code == 200
        answer = tell(line, upload_id, offset, len(piece)).message
        offset = answer.get("offset", len(SEALED))
    assert content(Update.objects.get().blob_digest) == SEALED
    assert Round.objects.get().submissions == 1
    assert not any(upload_id.hex() in name for name in stored_names())


def test_a_piece_that_is_not_in_the_store_moves_no_offset(line, manifest):
    upload_id = begin_direct(line, manifest).message["upload_id"]
    with nothing_changed():
        problem = assert_refused(tell(line, upload_id, 0, HALF), "upload-offset-mismatch")
    assert problem["offset"] == 0


def test_a_piece_of_another_length_than_told_moves_no_offset(line, manifest):
    answer = begin_direct(line, manifest).message
    httpx.put(answer["put_url"], content=SEALED[:HALF])
    with nothing_changed():
        assert_refused(tell(line, answer["upload_id"], 0, len(SEALED)), "upload-offset-mismatch")
    assert Upload.objects.get().offset_bytes == 0


def test_an_address_takes_no_other_number_of_bytes(line, manifest):
    address = httpx.URL(begin_direct(line, manifest).message["put_url"])
    assert "content-length" in address.params["X-Amz-SignedHeaders"]


def test_pieces_by_both_ways_make_one_update(line, manifest, settings):
    settings.QFLARE_UPLOAD_PIECE_BYTES = len(SEALED) - HALF
    upload_id = begin(line, manifest).message["upload_id"]
    send(line, upload_id, 0, SEALED[:HALF])
    httpx.put(begin_direct(line, manifest).message["put_url"], content=SEALED[HALF:])
    assert "receipt" in tell(line, upload_id, HALF, len(SEALED) - HALF).message
    assert content(Update.objects.get().blob_digest) == SEALED


def test_other_bytes_put_there_are_thrown_away(line, manifest):
    answer = begin_direct(line, manifest).message
    httpx.put(answer["put_url"], content=b"x" * len(SEALED))
    assert_refused(tell(line, answer["upload_id"], 0, len(SEALED)), "digest-mismatch")
    assert not Update.objects.exists()
    assert begin(line, manifest).message["offset"] == 0


def test_who_does_not_ask_for_an_address_is_given_none(line, manifest, settings):
    assert "put_url" not in begin(line, manifest).message
    settings.QFLARE_BLOB_REDIRECT = False
    assert "put_url" not in begin_direct(line, manifest).message


@pytest.mark.parametrize("query", ["stored=", "stored=0", "stored=-1", "stored=1e3", "stored=99999999"])
def test_a_length_out_of_form_is_refused(line, manifest, query):
    upload_id = begin(line, manifest).message["upload_id"]
    with nothing_changed():
        path = f"/api/uploads/{upload_id.hex()}?offset=0&{query}"
        assert_refused(line.ask(path, method="PATCH", body=b"", content_type=PIECE), "malformed-message")


def test_a_piece_comes_one_way_or_the_other(line, manifest):
    upload_id = begin(line, manifest).message["upload_id"]
    with nothing_changed():
        path = f"/api/uploads/{upload_id.hex()}?offset=0&stored=5"
        assert_refused(line.ask(path, method="PATCH", body=b"piece", content_type=PIECE), "malformed-message")


def test_a_store_that_is_away_costs_time_and_no_update(bucket, line, manifest, federation):
    answer = begin(line, manifest).message
    send(line, answer["upload_id"], 0, SEALED[:HALF])
    with bucket.away():
        refused = send(line, answer["upload_id"], HALF, SEALED[HALF:])
        assert assert_refused(refused, "service-unavailable")["retry_after_seconds"] == 5
        assert_refused(send_submission(line, frame(manifest) + SEALED), "service-unavailable")
        assert Upload.objects.get().offset_bytes == HALF
    assert begin(line, manifest).message["offset"] == HALF
    assert "receipt" in send(line, answer["upload_id"], HALF, SEALED[HALF:]).message
    assert Round.objects.get().submissions == 1


def test_a_round_is_aggregated_from_a_bucket_and_its_updates_are_swept(bucket, federation, fleet, destroyed_round_keys):
    round_ = collected(federation, fleet, [HONEST] * 4)
    updates = set(Update.objects.values_list("blob_digest", flat=True))
    with bucket.away():
        assert not steps.aggregate_round(round_.id, now=timezone.now())
    assert Round.objects.get(id=round_.id).attempts == 0  # it waits for its lease, and no attempt is counted
    later = timezone.now() + timedelta(minutes=5)  # the lease of the worker that failed has run out
    assert steps.aggregate_round(round_.id, now=later)
    round_.refresh_from_db()
    assert round_.state == "completed"
    version = ModelVersion.objects.get(number=1)
    assert get_blob(version.blob_digest).status_code == 307
    assert len(load_model(version)) == version.size_bytes
    names = {name.rpartition("/")[2] for name in stored_names()}
    assert updates < names
    sweep_blobs(now=timezone.now() + timedelta(hours=2))
    names = {name.rpartition("/")[2] for name in stored_names()}
    assert not updates & names
    assert version.blob_digest in names


def findings():
    return [message.id for message in run_checks() if message.id.startswith("qflare.training")]


def test_a_bucket_that_answers_is_found_well():
    assert findings() == []


def test_a_bucket_that_is_not_there_or_away_is_reported(bucket, settings):
    with bucket.away():
        assert findings() == ["qflare.training.E002"]
    settings.QFLARE_BLOB_URL = settings.QFLARE_BLOB_URL.replace("s3://", "s3://another-")
    assert findings() == ["qflare.training.E002"]


def test_a_site_without_the_packages_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    (found,) = [message for message in run_checks() if message.id == "qflare.training.E001"]
    assert "qflare[s3]" in found.hint


def test_a_store_without_tls_is_no_place_to_send_devices_to(settings):
    settings.QFLARE_INSECURE_HTTP = False
    assert findings() == ["qflare.training.W003"]
    settings.QFLARE_BLOB_REDIRECT = False
    assert findings() == []
