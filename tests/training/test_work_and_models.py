"""What a device asks for: work, a model, a blob."""

import uuid
from datetime import timedelta

import blake3
import pytest
from django.utils import timezone

from edge_client.http import CBOR
from qflare_protocol.chunked import open_chunks
from qflare_protocol.errors import Refusal
from tests.open_rounds import MODEL, Submission, make_federation
from tests.people import assert_refused, nothing_changed
from training.blobs import blob_path
from training.models import Federation, ModelVersion, Participation, Round
from training.services.federations import MODEL_CONTEXT, pause_federation, resume_federation
from training.services.schedules import schedule_rounds

pytestmark = pytest.mark.django_db


def ask_for_model(line, query):
    return line.ask(f"/api/global_model?{query}", method="GET", body=b"", content_type="")


def test_work_names_the_round_and_its_enclave(running, alice):
    work = alice.line().ask().message["round"]
    assert (work["round_id"], work["round_number"]) == (running.id.bytes, 1)
    assert work["base_model_digest"] == blake3.blake3(MODEL).digest()
    assert work["deadline"] == int(running.deadline_at.timestamp())


def test_without_a_round_a_device_is_told_when_to_ask_again(federation, alice):
    answer = alice.line().ask().message
    assert answer["round"] is None
    assert 1 <= answer["ask_again_seconds"] <= 30


def test_a_round_past_its_deadline_is_no_work(running, alice):
    Round.objects.update(deadline_at=timezone.now())
    assert alice.line().ask().message["round"] is None


def test_a_device_that_has_handed_in_has_no_work(running, alice):
    Participation.objects.update(state="submitted")
    assert alice.line().ask().message["round"] is None


def test_the_model_comes_as_a_blob_and_a_key(running, alice):
    line = alice.line()
    answer = ask_for_model(line, f"federation={running.federation_id}&version=0").message
    blob = alice.http.send("GET", f"/api/blobs/{answer['blob_digest'].hex()}").content
    assert len(blob) == answer["blob_bytes"]
    assert b"".join(open_chunks(answer["content_key"], (blob,), context=MODEL_CONTEXT)) == MODEL
    assert MODEL not in blob
    assert Participation.objects.get(device=alice.device).state == "downloaded"
    assert ask_for_model(line, f"federation={running.federation_id}").message == answer


def test_a_federation_of_another_group_looks_like_none(alice):
    other = make_federation("other", group="south")
    line = alice.line()
    with nothing_changed():
        for federation_id in (other.id, uuid.uuid4()):
            problem = assert_refused(ask_for_model(line, f"federation={federation_id}"), "not-found")
            assert str(federation_id) not in str(problem)


@pytest.mark.parametrize("version", [1, 999_999_999])
def test_a_version_there_is_not_is_refused(federation, alice, version):
    with nothing_changed_after(alice) as line:
        assert_refused(ask_for_model(line, f"federation={federation.id}&version={version}"), "no-model")


@pytest.mark.parametrize(
    "query",
    ["a=1", "federation=", "federation=x", "federation=%00", "federation={id}&version=", "federation={id}&version=-1",
     "federation={id}&version=1.5", "federation={id}&version=%C2%B2", "federation={id}&version=9999999999"],
)  # fmt: skip
def test_a_query_out_of_form_is_refused(federation, alice, query):
    with nothing_changed_after(alice) as line:
        assert_refused(ask_for_model(line, query.format(id=federation.id)), "malformed-message")


class nothing_changed_after:
    """`nothing_changed` that begins once the person's session stands."""

    def __init__(self, person):
        self.line = person.line()
        self.inner = nothing_changed()

    def __enter__(self):
        self.inner.__enter__()
        return self.line

    def __exit__(self, *exception):
        return self.inner.__exit__(*exception)


@pytest.mark.parametrize("digest", ["0" * 64, "x", "%00", "a" * 63, "A" * 64, "..", "%2e%2e%2fsecret", "\N{SNOWMAN}"])
def test_a_blob_there_is_not_is_refused(federation, mallory, digest):
    with nothing_changed():
        assert_refused(mallory.http.send("GET", f"/api/blobs/{digest}"), "not-found")


def test_only_models_are_served_as_blobs(running, alice):
    submission = Submission(running, alice)
    submission.hand_in(alice.line())
    digest = blake3.blake3(submission.sealed).hexdigest()
    assert_refused(alice.http.send("GET", f"/api/blobs/{digest}"), "not-found")


def test_a_blob_that_was_lost_is_not_a_server_error(federation, mallory):
    digest = ModelVersion.objects.get().blob_digest
    blob_path(digest).unlink()
    assert_refused(mallory.http.send("GET", f"/api/blobs/{digest}"), "not-found")


def test_a_post_of_a_model_request_is_not_allowed(federation, alice):
    with nothing_changed_after(alice) as line:
        assert_refused(line.ask("/api/global_model", content_type=CBOR), "method-not-allowed")


@pytest.fixture
def model_blob(federation):
    return blob_path(ModelVersion.objects.get().blob_digest)


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-", 0, None), ("bytes=10-", 10, None), ("bytes=3-9", 3, 10), ("bytes=5-999999", 5, None),
     ("bytes=-7", -7, None), ("bytes=-999999", 0, None)],
)  # fmt: skip
def test_a_range_of_a_blob_is_served(model_blob, mallory, asked, begin, end):
    answer = mallory.http.send("GET", f"/api/blobs/{model_blob.name}", headers={"Range": asked})
    body = model_blob.read_bytes()
    assert (answer.status_code, answer.content) == (206, body[begin:end])
    start = len(body) + begin if begin < 0 else begin
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(body)}"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["ETag"] == f'"{model_blob.name}"'


@pytest.mark.parametrize(
    "headers",
    [{}, {"Range": "bytes=-"}, {"Range": "bytes=1-2,5-6"}, {"Range": "bytes=9-3"}, {"Range": "lines=1-2"},
     {"Range": "bytes=a-b"}, {"Range": "bytes=10-", "If-Range": '"another"'}, {"Range": "bytes=" + "9" * 30 + "-"}],
)  # fmt: skip
def test_what_is_no_single_range_of_this_blob_gets_all_of_it(model_blob, mallory, headers):
    answer = mallory.http.send("GET", f"/api/blobs/{model_blob.name}", headers=headers)
    assert (answer.status_code, answer.content) == (200, model_blob.read_bytes())
    assert "Content-Range" not in answer.headers


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(model_blob, mallory, asked):
    answer = mallory.http.send("GET", f"/api/blobs/{model_blob.name}", headers={"Range": asked})
    assert assert_refused(answer, "range-not-satisfiable")["size"] == model_blob.stat().st_size


def test_nginx_is_told_where_a_blob_lies_and_sends_it_itself(model_blob, mallory, settings):
    settings.QFLARE_BLOB_ACCEL = "/internal-blobs/"
    answer = mallory.http.send("GET", f"/api/blobs/{model_blob.name}", headers={"Range": "bytes=3-"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["X-Accel-Redirect"] == f"/internal-blobs/{model_blob.name[:2]}/{model_blob.name}"
    assert "Content-Length" not in answer.headers or answer.headers["Content-Length"] == "0"
    assert_refused(mallory.http.send("GET", f"/api/blobs/{'0' * 64}"), "not-found")


class TestFederations:
    def test_a_name_is_given_once(self, federation):
        before = Federation.objects.count()
        with pytest.raises(Refusal, match="conflict"):
            make_federation()
        assert Federation.objects.count() == before

    @pytest.mark.parametrize("model", [b"", b"\x80\x04pickle", bytes(100), MODEL[:-1]])
    def test_a_model_that_is_no_safetensors_file_is_refused(self, db, model):
        with nothing_changed(), pytest.raises(Refusal, match="invalid-tensors"):
            make_federation(initial_model=model)

    @pytest.mark.parametrize("change", [pause_federation, resume_federation])
    def test_a_federation_there_is_not_is_refused(self, db, change):
        with nothing_changed(), pytest.raises(Refusal, match="not-found"):
            change(uuid.uuid4(), actor="operator:root")

    def test_a_schedule_is_kept_once_per_federation(self, federation):
        first = schedule_rounds(federation, every=timedelta(minutes=1), actor="operator:root")
        again = schedule_rounds(federation, every=timedelta(minutes=2), actor="operator:root")
        assert first.pk == again.pk
        assert again.interval.every == 120
