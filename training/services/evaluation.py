"""Evaluation of model versions on data held back by the operator, in a process of its own.

The evaluator is the operator's code and may import torch, so it never runs inside a web or worker
process (`training.evaluator_process`), and its answer is one line of JSON.
"""

import json
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from audit.services import record_event
from qflare_protocol.errors import Refusal
from training.evaluator_process import evaluate_in_process, may_evaluate_here
from training.long_work import turn_of_long_work
from training.models import ModelVersion
from training.models.lease import not_held
from training.services.early_stopping import stop_when_due
from training.services.publication import time_step
from training.services.round_sources import model_pieces

log = structlog.get_logger(__name__)

LARGEST_METRIC = 1e12
LEFT_TO_ANOTHER = timedelta(seconds=10)


def due_evaluations(now: datetime) -> QuerySet[ModelVersion]:
    """Return the versions that nobody has evaluated or is evaluating."""
    free = not_held("evaluation_lease_expires_at", 2 * _allowance(), now)
    return ModelVersion.objects.filter(free, evaluated_at=None, evaluation_error="").exclude(federation__evaluator="")


def _allowance() -> timedelta:
    return timedelta(seconds=settings.QFLARE_EVALUATION_SECONDS)


def evaluate_version(version_id: int, *, now: datetime) -> bool:
    """Evaluate a model version once and keep its metrics; return whether this call did.

    Where another process of this host keeps the evaluator, the version is left to it for a while; one that is
    still waiting then is evaluated by a process of its own. While the host is at other work that takes long it
    is left to a later tick.
    """
    keep = may_evaluate_here()
    if not keep and ModelVersion.objects.filter(id=version_id, created_at__gt=now - LEFT_TO_ANOTHER).exists():
        return False
    with turn_of_long_work(gives_way=True) as ours:
        return ours and _evaluate(version_id, now, keep=keep)


def _evaluate(version_id: int, now: datetime, *, keep: bool) -> bool:
    allowance = _allowance()
    if not due_evaluations(now).filter(id=version_id).update(evaluation_lease_expires_at=now + 2 * allowance):
        return False
    version = ModelVersion.objects.select_related("federation").get(id=version_id)
    started = time.monotonic()
    try:
        metrics = _run_evaluator(version, allowance, keep=keep)
    except Refusal as refusal:
        log.warning("evaluation_failed", version=str(version), detail=refusal.detail)
        ModelVersion.objects.filter(id=version_id).update(evaluation_error=refusal.detail[:500])
        return False
    _record_metrics(version, metrics, now, time.monotonic() - started)
    return True


@transaction.atomic
def _record_metrics(version: ModelVersion, metrics: dict[str, float], started_at: datetime, seconds: float) -> None:
    if not ModelVersion.objects.filter(id=version.id, evaluated_at=None).update(
        metrics=metrics, evaluated_at=timezone.now()
    ):
        return
    record_event(
        "model.evaluated",
        actor="system",
        payload={"federation": version.federation.name, "version": version.number, "metrics": metrics},
    )
    stop_when_due(version.federation_id)
    round_ = getattr(version, "produced_by", None)
    if round_ is not None:
        time_step(round_, "evaluate", started_at, seconds)


def _run_evaluator(version: ModelVersion, allowance: timedelta, *, keep: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="qflare-evaluation-") as folder:
        model = Path(folder) / "model.safetensors"
        with model.open("wb") as file:
            file.writelines(model_pieces(version))
        output = evaluate_in_process(
            version.federation.evaluator,
            version.federation.trainer_parameters,
            model,
            timeout_seconds=allowance.total_seconds(),
            keep=keep,
        )
    return _metrics_from(output)


def _metrics_from(output: str) -> dict[str, float]:
    try:
        metrics = json.loads(output.strip().splitlines()[-1])
        return {str(name): _finite(float(value)) for name, value in metrics.items()}
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise Refusal(
            "internal-error", "The evaluator did not print finite metrics up to 1e12 as one line of JSON."
        ) from error


def _finite(value: float) -> float:
    if not abs(value) <= LARGEST_METRIC:  # refuses NaN as well
        raise ValueError("a metric is out of range")
    return value
