"""A round that a device gave up: the server learns it in the end, and nobody trains for it twice."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_client import http as edge_http
from edge_client import storage
from edge_client.backoff import Backoff
from edge_client.device_state import DeviceStateFile
from edge_client.given_up import GivenUp, GivenUpRound
from edge_client.http import ServerUnreachable
from edge_client.round_worker import AFTER_FULL_DISK_SECONDS, AFTER_GIVEN_UP_AGAIN_SECONDS, RoundWorker
from edge_client.storage import DISK_IS_FULL
from edge_client.trainer import TrainingFailed
from tests.edge.test_kept_training import CountingTraining, begin_anew
from tests.people import DjangoHttp, Person
from training.models import Participation, ParticipationState, Round, Update

IMPATIENT = Backoff(0.001, 0.001, attempts=3)
RECORD = GivenUp(b"r" * 16, (b"k" * 32, b"l" * 32), "KeyError at trend.py:42")


class FailingTraining(CountingTraining):
    """Fails as fast as it can, as often as it is told to."""

    def __init__(self, failure: Exception, failures: int = 1000) -> None:
        super().__init__()
        self.failure, self.failures = failure, failures

    def train(self, *arguments: Any) -> Any:
        if self.trainings >= self.failures:
            return super().train(*arguments)
        self.trainings += 1
        raise self.failure


class TakesNoProgress(DjangoHttp):
    """A server too busy for reports, which serves work all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.reports = True, 0

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        if path.endswith("progress"):
            self.reports += 1
            if self.busy:
                return httpx.Response(503)
        return super().send(method, path, body, headers)


def device(person: Person, training: CountingTraining, http: DjangoHttp | None = None) -> RoundWorker:
    return RoundWorker(http or person.http, person.keeper, DeviceStateFile(person.home), training, IMPATIENT)


def part_of(person: Person) -> Participation:
    return Participation.objects.get(device=person.device)


def test_a_round_is_not_trained_again_while_the_server_takes_no_reports(running: Round, alice: Person) -> None:
    http, training = TakesNoProgress(), FailingTraining(TrainingFailed("KeyError at trend.py:42"))
    worker = device(alice, training, http)
    for _ in range(4):
        with pytest.raises(ServerUnreachable):
            worker.work_once()
    assert training.trainings == 1
    http.busy = False
    assert worker.work_once()[0] is False
    assert (part_of(alice).state, part_of(alice).reason) == ("failed", "KeyError at trend.py:42")
    reports = http.reports
    worker.work_once()
    assert (training.trainings, http.reports) == (1, reports)


def test_a_report_that_is_owed_outlasts_a_restart(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable):
        device(alice, FailingTraining(TrainingFailed("no data")), TakesNoProgress()).work_once()
    restarted = CountingTraining()
    device(alice, restarted).work_once()
    assert part_of(alice).reason == "no data" and restarted.trainings == 0


def test_a_server_that_forgot_the_report_is_told_again_and_waited_for(running: Round, alice: Person) -> None:
    training = FailingTraining(TrainingFailed("no data"))
    worker = device(alice, training)
    worker.work_once()
    Participation.objects.filter(device=alice.device).update(state=ParticipationState.INVITED, reason="")
    assert worker.work_once() == (False, AFTER_GIVEN_UP_AGAIN_SECONDS)
    assert part_of(alice).reason == "no data" and training.trainings == 1


def test_the_same_round_with_another_enclave_key_is_trained_for(running: Round, alice: Person) -> None:
    training = FailingTraining(TrainingFailed("no data"), failures=1)
    worker = device(alice, training)
    worker.work_once()
    begin_anew(running)
    Participation.objects.filter(device=alice.device).update(state=ParticipationState.INVITED, reason="")
    assert worker.work_once()[0]
    assert training.trainings == 2


def test_it_is_known_by_its_round_and_keys_after_a_restart(tmp_path: Path) -> None:
    GivenUpRound(tmp_path).keep(RECORD)
    kept = GivenUpRound(tmp_path)
    assert kept.untold() == RECORD
    kept.told()
    again = GivenUpRound(tmp_path)
    assert again.untold() is None
    assert not again.is_assigned_again(RECORD.round_id, (b"m" * 32,))
    assert not again.is_assigned_again(b"s" * 16, RECORD.key_ids)
    assert again.untold() is None
    assert again.is_assigned_again(RECORD.round_id, RECORD.key_ids)
    assert again.untold() == RECORD


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"told": 3}', "\x00"])
def test_a_damaged_record_stops_no_device(tmp_path: Path, damage: str) -> None:
    GivenUpRound(tmp_path).keep(RECORD)
    (tmp_path / "training" / "given-up.json").write_text(damage)
    assert GivenUpRound(tmp_path).untold() is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_a_download_ends_the_round_with_a_reason(
    running: Round, alice: Person, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        (alice.home / "download.begun").write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    training = CountingTraining()
    monkeypatch.setattr(edge_http, "_write_body", full)
    assert device(alice, training).work_once() == (False, AFTER_FULL_DISK_SECONDS)
    monkeypatch.undo()
    assert (part_of(alice).state, part_of(alice).reason) == ("failed", DISK_IS_FULL)
    assert not list(alice.home.glob("download.*"))
    assert device(alice, training).work_once()[0] is False
    assert training.trainings == 0


def test_a_disk_that_is_full_to_the_last_byte_is_reported_all_the_same(
    running: Round, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = device(alice, FailingTraining(OSError(errno.ENOSPC, "full")))

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("edge_client.given_up.write_private_file", full)
    assert worker.work_once() == (False, AFTER_FULL_DISK_SECONDS)
    assert part_of(alice).reason == DISK_IS_FULL


def test_training_code_that_found_the_disk_full_says_so_too(running: Round, alice: Person) -> None:
    worker = device(alice, FailingTraining(TrainingFailed(DISK_IS_FULL)))
    assert worker.work_once() == (False, AFTER_FULL_DISK_SECONDS)
    assert part_of(alice).reason == DISK_IS_FULL


def test_another_failure_of_the_disk_is_no_reason_but_a_mistake(running: Round, alice: Person) -> None:
    with pytest.raises(OSError, match="broken"):
        device(alice, FailingTraining(OSError(errno.EIO, "broken"))).work_once()
    assert not Update.objects.exists()
    assert not storage.disk_is_full(OSError(errno.EIO, "broken"))


def test_a_record_of_other_lengths_is_as_good_as_none(tmp_path: Path) -> None:
    kept = GivenUpRound(tmp_path)
    kept.keep(GivenUp(b"r" * 16, (b"k" * 32,), "it failed"))
    assert GivenUpRound(tmp_path).untold() is not None
    kept.keep(GivenUp(b"r" * 15, (b"k" * 32,), "it failed"))
    assert GivenUpRound(tmp_path).untold() is None
