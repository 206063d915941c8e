"""Evaluation of model versions on held-out data, in a process of its own."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from audit.models import Event
from tests.open_rounds import make_federation
from training.models import ModelVersion
from training.services.evaluation import due_evaluations, evaluate_version

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
