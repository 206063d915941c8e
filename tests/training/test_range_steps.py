"""Rounds whose model several sealed processes share: raced for, killed, begun anew, the same as from one process."""

import os
import signal
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

from audit.models import Event
from edge_client.device_state import DeviceStateFile
from edge_client.round_worker import RoundWorker
from edge_client.training import TrainingHere
from enclave import courier, services
from enclave.models import EnclaveInstance
from enclave.services import enclave_host
from qflare_protocol import ranges
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import verify_result
from qflare_protocol.tensors import decode_tensors, encode_tensors
from tests.open_rounds import make_federation, started
from tests.people import Person, enrol
from tests.policies import screened
from tests.system.running_site import KnownUpdateTrainer
from tests.training.whole_rounds import together
from training.models import CarriedRow, Federation, RangeStep, RangeStepKind, Round, RoundState
from training.services import range_steps, rounds, steps
from training.services.blob_sweep import sweep_blobs
from training.services.publication import LeaseLost
from training.services.tick import Dispatch, tick

SIZE = ranges.segment_columns(1) + 5
BASE = np.linspace(-1, 1, SIZE, dtype=np.float32)


def changes(spread: float = 1.0) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    common = generator.normal(size=SIZE)
    honest = [(common + spread * generator.normal(size=SIZE)).astype(np.float32) for _ in range(4)]
    return [-5 * honest[0], *honest[1:]] if spread == 1.0 else honest


@pytest.fixture
def fleet(db: None, tmp_path: Path) -> list[Person]:
    return [enrol(f"device-{number}", tmp_path / f"device-{number}") for number in range(4)]


@pytest.fixture(autouse=True)
def destroyed_round_keys() -> Iterator[None]:
    yield
    for key in (enclave_host().directory / "rounds").iterdir():
        key.unlink()


def federation_of(count: int) -> Federation:
    policy = screened(ranges=count, server_optimiser=Stage("fedavgm"), maximum_update_bytes=1 << 22)
    return make_federation(f"shared-{count}", policy=policy, initial_model=encode_tensors({"w": BASE}))


def collected(federation: Federation, fleet: list[Person], spread: float = 1.0) -> Round:
    """Run a round up to its aggregation."""
    round_ = started(federation)
    for person, change in zip(fleet, changes(spread), strict=True):
        memory = DeviceStateFile(person.home)
        worker = RoundWorker(
            person.http, person.keeper, memory, TrainingHere(lambda _, c=change: KnownUpdateTrainer({"w": c}, 10))
        )
        assert worker.work_once()[0]
    assert rounds.close_round(round_.id, now=timezone.now())
    return Round.objects.get(id=round_.id)


def due() -> list[tuple[str, object]]:
    """Return what a tick hands to workers."""
    handed: list[tuple[str, object]] = []
    tick(
        Dispatch(
            prepare_round=lambda id_: handed.append(("prepare", id_)),
            aggregate_round=lambda id_: handed.append(("aggregate", id_)),
            run_range_step=lambda id_: handed.append(("range", id_)),
            evaluate_version=lambda id_: handed.append(("evaluate", id_)),
        ),
        now=timezone.now(),
    )
    return handed


def work(name: str, id_: object) -> bool:
    """Do as a worker what was handed to it."""
    if name == "range":
        assert isinstance(id_, int)
        return range_steps.run_range_step(id_, now=timezone.now())
    assert name == "aggregate"
    assert isinstance(id_, uuid.UUID)
    return steps.aggregate_round(id_, now=timezone.now())


def finished(round_: Round) -> Round:
    """Work on what is due until nothing is."""
    while handed := due():
        for name, id_ in handed:
            work(name, id_)
    round_.refresh_from_db()
    return round_


@pytest.mark.django_db
def test_two_ranges_make_the_model_that_one_process_makes(fleet: list[Person]) -> None:
    models, carried = [], []
    for count in (1, 2):
        federation = federation_of(count)
        round_ = finished(collected(federation, fleet))
        assert round_.state == RoundState.COMPLETED, round_.end_reason
        models.append(steps.load_model(round_.resulting_version))
        carried.append(set(CarriedRow.objects.filter(federation=federation).values_list("name", flat=True)))
        signer = EnclaveInstance.objects.get(round_id=round_.id, range_index=0)
        result = verify_result(
            bytes(round_.resulting_version.provenance), Verifier("ML-DSA-44", bytes(signer.result_public_key))
        )
        assert result.accepted_count == 3
        assert EnclaveInstance.objects.filter(round_id=round_.id, wrapped_keys=None).count() == count
    assert models[0] == models[1]
    assert carried == [{"momentum"}, {"momentum@0", "momentum@1"}]
    assert not RangeStep.objects.exists()
    assert sweep_blobs(now=timezone.now() + timedelta(hours=2))
    again = finished(collected(Federation.objects.get(name="shared-2"), fleet))
    assert again.state == RoundState.COMPLETED, again.end_reason
    assert not np.array_equal(decode_tensors(steps.load_model(again.resulting_version))["w"], BASE)


@pytest.mark.django_db
def test_updates_that_lie_close_together_are_read_again_by_every_range(fleet: list[Person]) -> None:
    round_, kinds = collected(federation_of(2), fleet, spread=1e-3), set()
    while handed := due():
        for name, id_ in handed:
            assert work(name, id_)
            kinds |= set(RangeStep.objects.values_list("kind", flat=True))
    round_.refresh_from_db()
    assert round_.state == RoundState.COMPLETED, round_.end_reason
    assert kinds == set(RangeStepKind.values)


@pytest.mark.django_db(transaction=True)
def test_two_workers_race_and_each_step_is_done_once(fleet: list[Person]) -> None:
    round_ = collected(federation_of(2), fleet)
    while handed := due():
        attempts = [lambda name=name, id_=id_: work(name, id_) for name, id_ in handed for _ in range(2)]
        outcomes = together(*attempts)
        assert all(sorted(outcomes[place : place + 2]) == [False, True] for place in range(0, len(outcomes), 2))
    round_.refresh_from_db()
    assert round_.state == RoundState.COMPLETED, round_.end_reason
    assert Event.objects.filter(kind="round.completed").count() == 1


def killed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill every sealed process as soon as it is started."""
    started_process = courier.SealedProcess.__init__

    def kill(process: courier.SealedProcess, *arguments: Any) -> None:
        started_process(process, *arguments)
        os.kill(process.pid, signal.SIGKILL)

    monkeypatch.setattr(courier.SealedProcess, "__init__", kill)


@pytest.mark.django_db
def test_a_range_whose_process_is_killed_or_whose_worker_dies_is_done_again(
    fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation_of(2), fleet)
    assert work(*due()[0])
    first, second = (id_ for _, id_ in due())
    assert due() == [("range", first), ("range", second)]
    killed_at_once(monkeypatch)
    assert not work("range", second)
    monkeypatch.undo()
    assert RangeStep.objects.get(id=second).attempts == 1
    now, lease = timezone.now(), timedelta(seconds=30)
    RangeStep.objects.filter(id=second).update(lease_holder=uuid.uuid4(), lease_expires_at=now + lease)
    assert due() == [("range", first)]
    assert not range_steps.run_range_step(second, now=now)
    assert work("range", first)
    assert not work("range", first)
    assert due() == []
    assert range_steps.run_range_step(second, now=now + lease)
    assert finished(round_).state == RoundState.COMPLETED


@pytest.mark.django_db
def test_a_worker_that_lost_a_range_to_another_keeps_nothing(
    fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = collected(federation_of(2), fleet)
    assert work(*due()[0])
    step = RangeStep.objects.filter(round=round_).order_by("range_index")[0]
    run = services.run_range_step

    def overtaken(*args: object, **options: object) -> object:
        RangeStep.objects.filter(id=step.id).update(lease_holder=uuid.uuid4())
        return run(*args, **options)

    monkeypatch.setattr(services, "run_range_step", overtaken)
    assert not work("range", step.id)
    step.refresh_from_db()
    assert step.message is None


@pytest.mark.django_db
def test_a_range_that_keeps_failing_fails_the_round(fleet: list[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    round_ = collected(federation_of(2), fleet)
    assert work(*due()[0])
    step = RangeStep.objects.filter(round=round_).order_by("range_index")[0]

    def dying(*args: object, **options: object) -> None:
        raise Refusal("enclave-failed", "The sealed process ended with signal 9 (SIGKILL).")

    monkeypatch.setattr(services, "run_range_step", dying)
    for _ in range(steps.MAX_ATTEMPTS):
        assert not work("range", step.id)
    round_.refresh_from_db()
    assert round_.state == RoundState.FAILED
    assert "SIGKILL" in round_.end_reason
    assert not RangeStep.objects.exists()


@pytest.mark.django_db
def test_a_range_whose_keys_are_lost_begins_the_round_anew(fleet: list[Person]) -> None:
    round_ = collected(federation_of(2), fleet)
    assert work(*due()[0])
    step = RangeStep.objects.filter(round=round_, range_index=1).get()
    EnclaveInstance.objects.filter(round_id=round_.id, range_index=1).update(wrapped_keys=b"other")
    assert not work("range", step.id)
    round_.refresh_from_db()
    assert (round_.state, round_.restarts) == (RoundState.PENDING, 1)
    assert not RangeStep.objects.exists()


@pytest.mark.django_db
def test_a_round_whose_ranges_are_at_their_steps_is_not_taken_by_a_late_message(fleet: list[Person]) -> None:
    round_ = collected(federation_of(2), fleet)
    assert work(*due()[0])
    assert not work("aggregate", round_.id)
    holder = rounds.take_from_ranges(round_.id, lease_time=timedelta(seconds=30), now=timezone.now())
    assert holder is not None
    with pytest.raises(LeaseLost):
        range_steps.advance(round_, holder)
    assert [name for name, _ in due()] == ["range", "range"]
    assert finished(round_).state == RoundState.COMPLETED
