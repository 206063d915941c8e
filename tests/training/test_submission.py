"""Submissions: what a round takes, what it refuses, and that a refusal leaves nothing behind."""

import io
import uuid
from dataclasses import replace

import pytest
from django.db import connection
from django.utils import timezone

from audit.models import Event
from enclave.models import EnclaveInstance
from qflare_protocol.cose import sign1, verify1
from qflare_protocol.encoding import encode, frame
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import PURPOSE, manifest_digest
from qflare_protocol.progress import ProgressReport
from sessions.services import revoke_device
from tests.open_rounds import SEALED, Submission, make_federation, send_submission
from tests.people import OPERATOR, assert_refused, enrol, nothing_changed, opened
from training.blobs import blob_path
from training.models import Participation, Round, Update
from training.services import participation
from training.services.participation import SubmittedUpdate, receive_update, record_update
from training.services.rounds import cancel_round, close_round

pytestmark = pytest.mark.django_db


@pytest.fixture
def line(running, alice):
    return alice.line()


@pytest.fixture
def honest(running, alice):
    return Submission(running, alice)


def signed_map(submission, **changes):
    """Return a body whose manifest holds what no honest class would construct."""
    payload = submission.members() | {"form": "delta"} | changes
    manifest = sign1(submission.person.identity.keys.signer, payload, purpose=PURPOSE)
    return frame(manifest) + submission.sealed


def test_an_honest_update_is_stored_and_acknowledged(alice, line, honest):
    body = honest.body()
    receipt = verify1(alice.identity.identity, send_submission(line, body).message["receipt"], purpose="update receipt")
    update = Update.objects.get()
    assert receipt["manifest_digest"] == bytes(update.manifest_digest) == manifest_digest(bytes(update.manifest))
    assert blob_path(update.blob_digest).read_bytes() == SEALED
    part = update.participation
    assert (part.state, part.round.submissions) == ("submitted", 1)
    event = Event.objects.get(kind="update.received")
    assert (event.actor, event.payload["manifest_digest"]) == ("device:alice", receipt["manifest_digest"].hex())


def test_the_same_update_again_gets_the_same_receipt(line, honest):
    body = honest.body()
    first = send_submission(line, body).message
    again = send_submission(line, body).message
    assert again == first
    assert (Update.objects.count(), Round.objects.get().submissions) == (1, 1)
    assert Event.objects.filter(kind="update.received").count() == 1


def test_the_same_update_in_another_session_gets_the_same_receipt(alice, line, honest):
    body = honest.body()
    assert send_submission(line, body).message == send_submission(alice.line(), body).message


def test_a_retry_of_the_request_gets_the_byte_identical_answer(line, honest):
    request = line.seal("/api/submit_model", body=honest.body(), content_type="application/vnd.qflare.update")
    assert line.send(request).content == line.send(request).content
    assert Update.objects.count() == 1


def test_the_receipt_is_given_again_after_the_round_is_closed(line, honest):
    body = honest.body()
    first = send_submission(line, body).message
    Round.objects.update(deadline_at=timezone.now())
    close_round(honest.round.id, now=timezone.now())
    assert send_submission(line, body).message == first


def test_a_second_different_update_is_refused(line, honest):
    honest.hand_in(line)
    with nothing_changed():
        assert_refused(replace(honest, claims={"sample_count": 99}).hand_in(line), "already-submitted")


def test_no_request_of_a_round_reads_what_names_all_its_devices(line, honest, running):
    """What a device costs would grow with the number of the others."""
    body, manifest = honest.body(), honest.manifest()
    report = ProgressReport(running.id.bytes, "training", 0.5, 1.0).to_map()
    statements = []

    def note(execute, sql, params, many, context):
        statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert line.ask("/api/work").message["round"] is not None
        assert line.ask("/api/progress", report).message["continue"]
        line.ask("/api/uploads", {"manifest": manifest})
        assert send_submission(line, body).message["receipt"]
    assert any('"training_round"' in statement for statement in statements)
    assert not [statement for statement in statements if '"roster"' in statement or '"provenance"' in statement]


def test_an_update_that_lost_a_race_gets_what_the_faster_one_left(alice, line, honest, monkeypatch):
    """Another session of the device is faster between the look-up and the transaction."""
    body = honest.body()
    faster = send_submission(line, body).message["receipt"]
    monkeypatch.setattr(participation.Update.objects, "filter", lambda **_: Update.objects.none())
    size = int.from_bytes(body[:8], "big")

    def hand_in(manifest: bytes) -> bytes:
        now = timezone.now()
        received = receive_update(alice.device, SubmittedUpdate(manifest, io.BytesIO(SEALED)), now=now)
        return record_update(alice.device, received, now=now)

    assert hand_in(body[8 : 8 + size]) == faster
    with pytest.raises(Refusal, match="already-submitted"):
        hand_in(honest.manifest())
    assert Round.objects.get().submissions == 1


def test_a_round_past_its_deadline_takes_no_update(line, honest):
    Round.objects.update(deadline_at=timezone.now())
    with nothing_changed():
        assert_refused(honest.hand_in(line), "round-closed")


def test_a_cancelled_round_takes_no_update(line, honest):
    body = honest.body()
    cancel_round(honest.round.id, reason="wrong data", actor=OPERATOR, now=timezone.now())
    with nothing_changed():
        assert_refused(send_submission(line, body), "round-closed")


def test_a_round_that_closes_while_the_update_streams_in_takes_it_no_more(line, honest, monkeypatch):
    body = honest.body()
    monkeypatch.setattr(participation, "_check_against_round", lambda *_: Round.objects.update(state="aggregating"))
    assert_refused(send_submission(line, body), "round-closed")
    assert (Update.objects.count(), Participation.objects.filter(state="submitted").count()) == (0, 0)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"base_model_digest": bytes(32)}, "base-model-mismatch"),
        ({"form": "weights"}, "policy-refused"),
        ({"enclave_key_id": bytes(32)}, "enclave-key-mismatch"),
        ({"round_id": uuid.uuid4().bytes}, "not-invited"),
        ({"federation_id": uuid.uuid4().bytes}, "not-invited"),
        ({"device_id": uuid.uuid4().bytes}, "not-invited"),
        ({"sample_count": 1001}, "sample-count-refused"),
        ({"ciphertext_digest": bytes(32)}, "digest-mismatch"),
        ({"ciphertext_bytes": len(SEALED) + 1}, "digest-mismatch"),
        ({"ciphertext_bytes": len(SEALED) - 1}, "digest-mismatch"),
        ({"ciphertext_bytes": 4097}, "update-too-large"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(line, honest, claims, code):
    with nothing_changed():
        assert_refused(replace(honest, claims=claims).hand_in(line), code)


@pytest.mark.parametrize("count", [-1, 0, 1.5, 1.0, 10**12, 1 << 64, True, "100", None, float("nan"), float("inf")])
def test_a_sample_count_that_counts_no_samples_is_refused(line, honest, count):
    code = "malformed-message" if count == 1 << 64 else "sample-count-refused"
    with nothing_changed():
        assert_refused(send_submission(line, signed_map(honest, sample_count=count)), code)


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "gradient"},
        {"round_id": bytes(15)},
        {"round_id": "text"},
        {"ciphertext_bytes": -1},
        {"ciphertext_bytes": True},
        {"metrics": {"loss": float("nan")}},
        {"metrics": {"loss": float("inf")}},
        {"metrics": {"loss": 10**400}},
        {"metrics": {"loss": True}},
        {"metrics": {"": 1.0}},
        {"metrics": {"a\0": 1.0}},
        {"metrics": {str(number): 1.0 for number in range(33)}},
        {"metrics": []},
        {"more": 1},
    ],
)
def test_a_manifest_out_of_form_is_refused(line, honest, changes):
    with nothing_changed():
        assert_refused(send_submission(line, signed_map(honest, **changes)), "malformed-message")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -len(SEALED) - 1])
def test_a_body_cut_off_inside_the_manifest_is_refused(line, honest, kept):
    with nothing_changed():
        body = honest.body()[:kept]
        request = line.seal("/api/submit_model", body=body, content_type="application/vnd.qflare.update")
        answer = line.send(request, **{"Content-Type": "application/vnd.qflare.sealed"})
        assert_refused(opened(request, answer), "malformed-message")


@pytest.mark.parametrize("kept", [-len(SEALED), -1, -100])
def test_a_truncated_update_is_refused(line, honest, kept):
    with nothing_changed():
        assert_refused(send_submission(line, honest.body()[:kept]), "digest-mismatch")


def test_an_update_with_bytes_behind_it_is_refused(line, honest):
    with nothing_changed():
        assert_refused(send_submission(line, honest.body() + b"\0"), "digest-mismatch")


def test_an_update_with_a_changed_byte_is_refused(line, honest):
    with nothing_changed():
        assert_refused(send_submission(line, honest.body()[:-1] + b"\0"), "digest-mismatch")


@pytest.mark.parametrize("length", [0, 1 << 16, (1 << 16) + 1, 1 << 63, (1 << 64) - 1])
def test_a_length_frame_of_garbage_is_refused(line, honest, length):
    with nothing_changed():
        body = length.to_bytes(8, "big") + honest.body()[8:]
        assert_refused(send_submission(line, body), "malformed-message")


@pytest.mark.parametrize("manifest", [b"\xff", b"\x80", encode({}), encode([b"", {}, b"", b""]), bytes(2000)])
def test_a_manifest_of_garbage_is_refused(line, honest, manifest):
    with nothing_changed():
        assert_refused(send_submission(line, frame(manifest) + SEALED), "malformed-message")


def test_a_manifest_signed_by_another_key_is_refused(line, honest, carol, mallory):
    for stranger in (carol, mallory):
        with nothing_changed():
            forged = replace(honest, signer=stranger.identity.keys.signer)
            assert_refused(forged.hand_in(line), "invalid-signature")


def test_the_manifest_of_another_device_is_refused(line, honest, carol):
    with nothing_changed():
        assert_refused(replace(honest, person=carol).hand_in(line), "not-invited")
        relayed = replace(honest, person=carol, signer=honest.person.identity.keys.signer)
        assert_refused(relayed.hand_in(line), "not-invited")
        assert_refused(replace(honest, signer=carol.identity.keys.signer).hand_in(line), "invalid-signature")


def test_a_device_that_was_not_invited_is_refused(running, tmp_path):
    late = enrol("late", tmp_path / "late")
    line = late.line()
    with nothing_changed():
        assert_refused(Submission(running, late).hand_in(line), "not-invited")


def test_a_round_of_another_federation_is_refused(line, honest):
    other = make_federation("other")
    with nothing_changed():
        forged = replace(honest, claims={"federation_id": other.id.bytes})
        assert_refused(forged.hand_in(line), "not-invited")


def test_a_revoked_device_hands_nothing_in(alice, line, honest):
    body = honest.body()
    request = line.seal("/api/submit_model", body=body, content_type="application/vnd.qflare.update")
    revoke_device(alice.device.id, reason="stolen", actor=OPERATOR, now=timezone.now())
    with nothing_changed():
        assert_refused(line.send(request), "session-expired")


def test_an_enclave_that_is_gone_asks_for_patience(line, honest):
    body = honest.body()
    EnclaveInstance.objects.update(retired_at=timezone.now(), wrapped_keys=None)
    with nothing_changed():
        assert_refused(send_submission(line, body), "service-unavailable")


@pytest.mark.parametrize("content_type", ["", "application/cbor", "application/octet-stream"])
def test_an_update_travels_under_its_own_content_type(line, honest, content_type):
    with nothing_changed():
        assert_refused(send_submission(line, honest.body(), content_type), "unsupported-media-type")


def test_a_body_above_the_servers_limit_is_refused_before_it_is_read(line, honest, settings):
    settings.QFLARE_MAX_UPDATE_BYTES = 1000
    request = line.seal("/api/submit_model", body=bytes(1001 + (1 << 16)), content_type="application/vnd.qflare.update")
    with nothing_changed():
        assert_refused(line.send(request), "message-too-large")
