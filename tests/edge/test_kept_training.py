"""What was trained is kept until its receipt: a round that begins anew, or a later one of the same base, gets it."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import transaction
from django.utils import timezone

from edge_client.assignment import Assignment, OlderBase
from edge_client.backoff import Backoff
from edge_client.device_state import DeviceStateFile
from edge_client.http import ServerUnreachable
from edge_client.round_worker import RoundWorker
from edge_client.tensor_files import map_tensor_file, write_tensor_file
from edge_client.training import TrainingHere
from edge_client.training_folder import TrainingFolder
from qflare_protocol.errors import Refusal
from tests.edge.test_round_worker import LosesAnswers
from tests.edge.trainers import SmallTrainer
from tests.open_rounds import started
from tests.people import OPERATOR, DjangoHttp, Person
from training.models import Round, Update
from training.services.rounds import cancel_round, restart_round
from training.services.steps import prepare_round

ASSIGNMENT = Assignment(b"r" * 16, 3, b"f" * 16, "digits", 7, b"7" * 32, (b"e",), {}, b"k" * 32)


class CountingTraining(TrainingHere):
    """Counts how often it trained."""

    def __init__(self) -> None:
        super().__init__(lambda parameters: SmallTrainer(parameters, {}))
        self.trainings = 0

    def train(self, *arguments: Any) -> Any:
        self.trainings += 1
        return super().train(*arguments)


def device(person: Person, training: CountingTraining, http: DjangoHttp | None = None) -> RoundWorker:
    return RoundWorker(http or person.http, person.keeper, DeviceStateFile(person.home), training)


def begin_anew(round_: Round) -> None:
    """Lose the round's enclave key, as a host that went up in smoke does, and prepare another."""
    holder = uuid.uuid4()
    Round.objects.filter(id=round_.id).update(lease_holder=holder)
    with transaction.atomic():
        assert restart_round(round_.id, holder, reason="the key is lost", now=timezone.now())
    assert prepare_round(round_.id, now=timezone.now())


def test_a_round_that_began_anew_gets_the_same_training_sealed_again(running: Round, alice: Person) -> None:
    training = CountingTraining()
    worker = device(alice, training)
    assert made_update(worker)
    begin_anew(running)
    assert worker._hand_in() is False  # it is sealed to the lost key
    assert worker.work_once()[0]
    assert training.trainings == 1
    assert Update.objects.filter(participation__device=alice.device).count() == 1


def made_update(worker: RoundWorker) -> bool:
    assignment = Assignment.from_wire(worker._session.post("/api/work", {})["round"])
    return worker._make_update(assignment, worker._appraised(assignment))


def test_the_next_round_from_the_same_model_gets_it_too(running: Round, alice: Person) -> None:
    training = CountingTraining()
    worker = device(alice, training)
    assert made_update(worker)
    cancel_round(running.id, reason="a wrong deadline", actor=OPERATOR, now=timezone.now())
    assert worker._hand_in() is False
    started(running.federation)
    assert worker.work_once()[0]
    assert training.trainings == 1


def test_an_acknowledged_training_is_used_once(running: Round, alice: Person) -> None:
    training = CountingTraining()
    worker = device(alice, training)
    assert worker.work_once()[0]
    assert DeviceStateFile(alice.home).training.kept() is None
    cancel_round(running.id, reason="once more", actor=OPERATOR, now=timezone.now())
    started(running.federation)
    assert worker.work_once()[0]
    assert training.trainings == 2


def test_a_device_that_lost_power_after_training_does_not_train_again(running: Round, alice: Person) -> None:
    before = CountingTraining()
    memory, impatient = DeviceStateFile(alice.home), Backoff(0.001, 0.001, 2)
    with pytest.raises(ServerUnreachable, match="lost"):
        RoundWorker(LosesAnswers(100), alice.keeper, memory, before, impatient).work_once()
    DeviceStateFile(alice.home).outbox.drop()
    begin_anew(running)
    after = CountingTraining()
    assert device(alice, after).work_once()[0]
    assert (before.trainings, after.trainings) == (1, 0)


def test_a_training_fits_rounds_of_its_base_and_those_that_take_older_ones(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.begin()
    kept = folder.keep(ASSIGNMENT, 10, {"loss": 0.5})
    assert TrainingFolder(tmp_path).kept() == kept
    later = replace(ASSIGNMENT, base_version=8, base_model_digest=b"8" * 32)
    assert kept.fits(ASSIGNMENT)
    assert not kept.fits(later)
    assert kept.fits(replace(later, older_bases=(OlderBase(7, b"7" * 32),)))
    assert not kept.fits(replace(ASSIGNMENT, federation_id=b"g" * 16))


def test_a_training_that_was_interrupted_is_not_kept(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.begin()
    folder.keep(ASSIGNMENT, 10, {})
    folder.begin()
    assert folder.kept() is None


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"federation_id": 3}', "\x00"])
def test_a_damaged_record_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    folder = TrainingFolder(tmp_path)
    folder.begin()
    folder.keep(ASSIGNMENT, 10, {})
    (tmp_path / "training" / "training.json").write_text(damage)
    assert folder.kept() is None


def test_a_model_survives_its_file_and_is_mapped_not_read(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(3.5, dtype=np.float32),
        "none": np.zeros((0, 4), np.float32),
    }
    write_tensor_file(tmp_path / "model", tensors)
    found = map_tensor_file(tmp_path / "model")
    assert {name: array.shape for name, array in found.items()} == {"a": (), "b": (2, 3), "none": (0, 4)}
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert isinstance(found["b"].base, np.memmap) and not found["b"].flags.writeable


@pytest.mark.parametrize("cut", [0, 7, 20, -1])
def test_a_model_file_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model"
    write_tensor_file(path, {"w": np.ones(5, np.float32)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Refusal, match="header|size"):
        map_tensor_file(path)
