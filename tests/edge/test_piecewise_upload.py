"""A device hands a large update in by pieces, through restarts of itself and answers that are lost."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

from edge_client.backoff import Backoff
from edge_client.device_state import DeviceStateFile
from edge_client.hand_in import HandIn
from edge_client.http import ServerUnreachable
from edge_client.piecewise_upload import PiecewiseUpload
from edge_client.round_worker import RoundWorker
from edge_client.session import SealedRefusal
from enclave.models import EnclaveInstance
from qflare_protocol.errors import Refusal
from tests.bucket import bucket, new_bucket, object_store
from tests.edge.trainers import SmallTrainer
from tests.open_rounds import Submission, make_federation, started
from tests.people import DjangoHttp, Person
from tests.policies import screened
from training.blobs import blob_path, open_blob
from training.models import Round, Update, Upload
from training.services.rounds import close_round

__all__ = ["bucket", "new_bucket", "object_store"]
PIECE = 4096
SEALED = os.urandom(10 * PIECE + 100)


class CutLine(DjangoHttp):
    """Loses requests and answers where its plan says so: "request" never arrives, "answer" never comes back."""

    def __init__(self, plan: Mapping[int, str]) -> None:
        super().__init__()
        self.plan, self.sent, self.offsets = plan, 0, []

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        if "/api/uploads" not in path:
            return super().send(method, path, body, headers)
        self.sent += 1
        if self.plan.get(self.sent) == "request":
            raise ServerUnreachable("the request was lost")
        if method == "PATCH":
            self.offsets.append(int(path.partition("offset=")[2].partition("&")[0]))
        answer = super().send(method, path, body, headers)
        if self.plan.get(self.sent) == "answer":
            raise ServerUnreachable("the answer was lost")
        return answer


@pytest.fixture
def large(alice: Person, carol: Person, dave: Person, enclave_here: None, settings: Any) -> Round:
    settings.QFLARE_UPLOAD_PIECE_BYTES = PIECE
    return started(make_federation("large", policy=screened(maximum_update_bytes=1 << 20)))


def kept_by(alice: Person, round_: Round, sealed: bytes = SEALED) -> None:
    outbox = DeviceStateFile(alice.home).outbox
    outbox.write_sealed((sealed,))
    outbox.keep(Submission(round_, alice, sealed=sealed).manifest())


def worker_of(person: Person, http: DjangoHttp, attempts: int = 3) -> RoundWorker:
    patient = Backoff(base_seconds=0.001, maximum_seconds=0.001, attempts=attempts)
    memory = DeviceStateFile(person.home)
    worker = RoundWorker(http, person.keeper, memory, lambda parameters: SmallTrainer(parameters, {}), patient)
    worker._outgoing = HandIn(worker._session, memory.outbox, worker._asked, worker._refused, whole_bytes=PIECE)
    return worker


def test_a_large_update_goes_in_pieces_and_gets_its_receipt(large: Round, alice: Person) -> None:
    kept_by(alice, large)
    line = CutLine({})
    assert worker_of(alice, line)._hand_in()
    assert line.offsets == list(range(0, len(SEALED), PIECE))
    assert blob_path(Update.objects.get().blob_digest).read_bytes() == SEALED
    assert DeviceStateFile(alice.home).outbox.kept() is None


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("number", [1, 2, 6, 12])
def test_a_lost_message_costs_a_repetition_and_no_second_update(
    large: Round, alice: Person, lost: str, number: int
) -> None:
    kept_by(alice, large)
    assert worker_of(alice, CutLine({number: lost, number + 1: lost}))._hand_in()
    assert blob_path(Update.objects.get().blob_digest).read_bytes() == SEALED
    large.refresh_from_db()
    assert large.submissions == 1


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_device_that_is_restarted_goes_on_where_the_servers_bytes_end(large: Round, alice: Person, lost: str) -> None:
    kept_by(alice, large)
    with pytest.raises(ServerUnreachable):
        worker_of(alice, CutLine(dict.fromkeys(range(5, 1000), lost)))._hand_in()
    acknowledged = Upload.objects.get().offset_bytes
    assert acknowledged > 0
    line = CutLine({})
    assert worker_of(alice, line)._hand_in()
    assert line.offsets[0] == acknowledged
    assert Update.objects.count() == 1


def test_a_restarted_device_whose_last_answer_was_lost_gets_its_receipt_and_sends_no_byte(
    large: Round, alice: Person
) -> None:
    kept_by(alice, large)
    with pytest.raises(ServerUnreachable):
        worker_of(alice, CutLine(dict.fromkeys(range(12, 1000), "answer")))._hand_in()
    assert Update.objects.count() == 1
    line = CutLine({})
    assert worker_of(alice, line)._hand_in()
    assert line.offsets == []


def test_an_upload_the_server_lost_in_the_middle_begins_again(large: Round, alice: Person) -> None:
    kept_by(alice, large)

    class Forgetful(CutLine):
        def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
            if self.sent == 6 and "/api/uploads" in path:
                Upload.objects.all().delete()
            return super().send(method, path, body, headers)

    line = Forgetful({})
    assert worker_of(alice, line)._hand_in()
    assert line.offsets.count(0) == 2
    assert blob_path(Update.objects.get().blob_digest).read_bytes() == SEALED


def test_a_round_that_closes_meanwhile_costs_the_update_and_not_the_device(large: Round, alice: Person) -> None:
    kept_by(alice, large)
    with pytest.raises(ServerUnreachable):
        worker_of(alice, CutLine(dict.fromkeys(range(5, 1000), "request")))._hand_in()
    Round.objects.filter(id=large.id).update(state="aggregating")
    assert worker_of(alice, CutLine({}))._hand_in() is False
    assert DeviceStateFile(alice.home).outbox.kept() is None


def test_a_round_that_begins_anew_meanwhile_stops_the_upload_before_its_end(large: Round, alice: Person) -> None:
    kept_by(alice, large)
    with pytest.raises(ServerUnreachable):
        worker_of(alice, CutLine(dict.fromkeys(range(5, 1000), "request")))._hand_in()
    EnclaveInstance.objects.update(key_id=bytes(32))
    assert worker_of(alice, CutLine({}))._hand_in() is False
    assert not Update.objects.exists()


def test_the_allowance_of_a_sessions_keys_is_renewed_on_the_way(large: Round, alice: Person, settings: Any) -> None:
    settings.QFLARE_SESSION_LIMITS = {**settings.QFLARE_SESSION_LIMITS, "transfer_bytes": 3 * PIECE}
    kept_by(alice, large)
    worker = worker_of(alice, CutLine({}))
    assert worker._hand_in()
    assert worker._session.rekey() >= 3
    assert blob_path(Update.objects.get().blob_digest).read_bytes() == SEALED


@pytest.mark.parametrize(
    "answer",
    [
        {"upload_id": b"short", "offset": 0, "piece_bytes": 1},
        {"upload_id": bytes(16), "offset": -1, "piece_bytes": 1},
        {"upload_id": bytes(16), "offset": len(SEALED), "piece_bytes": 1},
        {"upload_id": bytes(16), "offset": 0, "piece_bytes": 0},
        {"upload_id": bytes(16), "offset": 0, "piece_bytes": PIECE},
    ],
)
def test_a_server_whose_answers_lead_nowhere_is_not_followed_for_ever(
    large: Round, alice: Person, answer: dict[str, Any]
) -> None:
    kept_by(alice, large)

    class StandingStill:
        def __init__(self) -> None:
            self.asked = 0

        def post(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
            return answer

        def request(self, *arguments: Any) -> dict[str, Any]:
            self.asked += 1
            return {"offset": 0}

    session = StandingStill()
    with pytest.raises(Refusal) as refused:
        PiecewiseUpload(session, lambda ask, what: ask()).deliver(DeviceStateFile(alice.home).outbox.kept())  # type: ignore[arg-type]
    assert refused.value.code == "malformed-message"
    assert session.asked <= 10


def test_a_refusal_that_ends_an_upload_is_the_sealed_one(large: Round, alice: Person) -> None:
    kept_by(alice, large)
    Round.objects.filter(id=large.id).update(deadline_at=large.opened_at)
    close_round(large.id, now=large.opened_at)
    worker = worker_of(alice, CutLine({}))
    with pytest.raises(SealedRefusal) as refused:
        worker._outgoing._receipt_for(DeviceStateFile(alice.home).outbox.kept())  # type: ignore[arg-type]
    assert refused.value.code == "round-closed"


@pytest.mark.slow
def test_an_update_larger_than_a_sessions_allowance_arrives(large: Round, alice: Person, settings: Any) -> None:
    settings.QFLARE_UPLOAD_PIECE_BYTES = 8 << 20
    Round.objects.filter(id=large.id).update(policy=large.policy | {"maximum_update_bytes": 1 << 30})
    large.refresh_from_db()
    sealed = os.urandom(1 << 20) * 300
    kept_by(alice, large, sealed)
    line = CutLine({20: "answer", 30: "request"})
    assert worker_of(alice, line)._hand_in()
    assert blob_path(Update.objects.get().blob_digest).stat().st_size == len(sealed) > 256 << 20


class CountingStore(CutLine):
    """Counts what is put into the blob store; from a piece on nobody reaches it, or it loses what it has."""

    def __init__(self, fails_from: int = 1000, loses_from: int = 1000) -> None:
        super().__init__({})
        self.fails_from, self.loses_from, self.put = fails_from, loses_from, 0

    def put_at_store(self, address: str, piece: bytes) -> None:
        self.put += 1
        if self.put >= self.fails_from:
            raise ServerUnreachable("no way there")
        if self.put < self.loses_from:
            super().put_at_store(address, piece)


@pytest.fixture
def in_bucket(bucket: Any, large: Round, alice: Person) -> Round:
    """The server keeps its blobs in a bucket, and the device has an update of eleven pieces."""
    kept_by(alice, large)
    return large


def assert_counted(round_: Round, line: CutLine) -> None:
    with open_blob(Update.objects.get().blob_digest) as blob:
        assert blob.read() == SEALED
    round_.refresh_from_db()
    assert round_.submissions == 1
    assert sorted(set(line.offsets)) == list(range(0, len(SEALED), PIECE))


def test_pieces_go_to_the_servers_blob_store_where_it_names_an_address(in_bucket: Round, alice: Person) -> None:
    line = CountingStore()
    assert worker_of(alice, line)._hand_in()
    assert line.put == len(line.offsets) == 11
    assert_counted(in_bucket, line)


def test_from_the_first_failure_of_the_store_on_pieces_go_through_the_session(in_bucket: Round, alice: Person) -> None:
    line = CountingStore(fails_from=4)
    assert worker_of(alice, line)._hand_in()
    assert line.put == 4
    assert_counted(in_bucket, line)


def test_a_piece_that_the_store_lost_is_sent_through_the_session(in_bucket: Round, alice: Person) -> None:
    line = CountingStore(loses_from=3)
    assert worker_of(alice, line)._hand_in()
    assert line.put == 3
    assert_counted(in_bucket, line)
