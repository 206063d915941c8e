"""Evaluation of model versions on held-out data, in a process of its own."""

import fcntl
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from audit.models import Event
from tests.open_rounds import make_federation
from training import evaluator_process
from training.evaluator_process import close_evaluator
from training.models import ModelVersion
from training.services.evaluation import LEFT_TO_ANOTHER, due_evaluations, evaluate_version

TRAINERS = "tests.edge.trainers"


def version_with(evaluator: str) -> ModelVersion:
    return make_federation(evaluator=evaluator).current_version


@pytest.mark.django_db
def test_metrics_are_kept_with_the_version_and_logged() -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    assert evaluate_version(version.id, now=timezone.now())
    version.refresh_from_db()
    assert version.metrics == {"mean": 0.0, "accuracy": 0.9}
    assert version.evaluated_at is not None
    assert Event.objects.filter(kind="model.evaluated").exists()


@pytest.mark.django_db
def test_a_version_is_evaluated_once() -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    assert evaluate_version(version.id, now=timezone.now())
    assert not evaluate_version(version.id, now=timezone.now())


@pytest.mark.django_db
def test_a_version_that_a_worker_evaluates_is_not_due_until_its_lease_is_over(settings: Any) -> None:
    version, now = version_with(f"{TRAINERS}:SmallTrainer"), timezone.now()
    lease = timedelta(seconds=2 * settings.QFLARE_EVALUATION_SECONDS)
    due_evaluations(now).filter(id=version.id).update(evaluation_lease_expires_at=now + lease)
    assert not due_evaluations(now).exists()
    assert due_evaluations(now + lease).exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("trainer", "complaint"),
    [
        ("FailingTrainer", "no data here"),
        ("DivergedTrainer", "finite metrics"),
        ("SilentTrainer", "one line of JSON"),
        ("Missing", "no Missing"),
    ],
)
def test_an_evaluator_that_fails_is_reported_and_not_tried_for_ever(trainer: str, complaint: str) -> None:
    version = version_with(f"{TRAINERS}:{trainer}")
    assert not evaluate_version(version.id, now=timezone.now())
    version.refresh_from_db()
    assert complaint in version.evaluation_error
    assert not due_evaluations(timezone.now() + timedelta(days=1)).exists()


@pytest.mark.django_db
def test_an_evaluator_that_hangs_is_ended(settings: Any) -> None:
    settings.QFLARE_EVALUATION_SECONDS = 3
    version = version_with(f"{TRAINERS}:SlowTrainer")
    assert not evaluate_version(version.id, now=timezone.now())
    version.refresh_from_db()
    assert "longer than 3 s" in version.evaluation_error


@pytest.mark.django_db
def test_a_federation_without_an_evaluator_has_nothing_due() -> None:
    version_with("")
    assert not due_evaluations(timezone.now()).exists()


@pytest.mark.django_db
def test_the_code_is_imported_once_for_several_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = tmp_path / "imports"
    monkeypatch.setenv("COUNTED_IMPORTS", str(imports))
    version = version_with("tests.edge.troubled_trainers:Troubled")
    for _ in range(3):
        ModelVersion.objects.update(evaluated_at=None, evaluation_lease_expires_at=None)
        assert evaluate_version(version.id, now=timezone.now())
    assert imports.read_text() == "imported\n"


@pytest.mark.django_db
def test_an_evaluator_that_died_between_two_versions_is_started_again() -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    assert evaluate_version(version.id, now=timezone.now())
    close_evaluator()
    ModelVersion.objects.update(evaluated_at=None, evaluation_lease_expires_at=None)
    assert evaluate_version(version.id, now=timezone.now())


@pytest.mark.django_db
def test_an_evaluator_that_ends_of_idleness_as_it_is_asked_costs_no_version() -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    assert evaluate_version(version.id, now=timezone.now())
    kept = evaluator_process._kept
    assert kept is not None
    os.kill(kept.process.pid, signal.SIGSTOP)  # it takes the line that is written, and never reads it
    threading.Timer(0.3, kept.process.kill).start()
    ModelVersion.objects.update(evaluated_at=None, evaluation_lease_expires_at=None)
    assert evaluate_version(version.id, now=timezone.now())
    assert evaluator_process._kept is not kept


@pytest.mark.django_db
def test_an_evaluator_is_started_anew_in_time_for_code_that_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    assert evaluate_version(version.id, now=timezone.now())
    first = evaluator_process._kept
    monkeypatch.setattr(evaluator_process, "LIFE_SECONDS", 0.0)
    ModelVersion.objects.update(evaluated_at=None, evaluation_lease_expires_at=None)
    assert evaluate_version(version.id, now=timezone.now())
    assert evaluator_process._kept is not first


@pytest.mark.django_db
def test_a_version_that_its_process_does_not_come_to_is_evaluated_by_one_of_its_own(settings: Any) -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    close_evaluator()
    with (Path(settings.QFLARE_DATA_DIR) / "evaluator.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert evaluate_version(version.id, now=version.created_at + LEFT_TO_ANOTHER)
    assert evaluator_process._kept is None


@pytest.mark.django_db
def test_one_process_of_a_host_evaluates(settings: Any) -> None:
    version = version_with(f"{TRAINERS}:SmallTrainer")
    close_evaluator()
    with (Path(settings.QFLARE_DATA_DIR) / "evaluator.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not evaluate_version(version.id, now=timezone.now())
        assert due_evaluations(timezone.now()).exists()
    assert evaluate_version(version.id, now=timezone.now())
