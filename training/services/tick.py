"""The one clock of training: it asks the database what is due and dispatches it.

Broker messages are hints that may be lost or doubled; whatever they should have started is found
here again, so a lost message or a dead worker costs at most one tick and one lease.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from qflare_protocol.errors import Refusal
from training.models import RangeStep, Round, RoundState
from training.services.absent_enclaves import begin_absent_rounds_anew
from training.services.evaluation import due_evaluations
from training.services.rounds import close_round, open_scheduled_round
from training.services.schedules import due_federations

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Dispatch:
    """How the steps that are due are handed to workers."""

    prepare_round: Callable[[uuid.UUID], None]
    aggregate_round: Callable[[uuid.UUID], None]
    run_range_step: Callable[[int], None]
    evaluate_version: Callable[[int], None]


def tick(dispatch: Dispatch, *, now: datetime) -> None:
    """Close the rounds that are due, begin those anew whose host is gone, open those whose time has come, and dispatch.

    Dispatched is every step that nobody runs.
    """
    for round_id in list(Round.objects.due_to_close(now).values_list("id", flat=True)):
        close_round(round_id, now=now)
    begin_absent_rounds_anew(now=now)
    for federation in due_federations(now):
        _open_round(federation.id, now)
    for round_id, state in list(Round.objects.awaiting_worker(now).values_list("id", "state")):
        (dispatch.prepare_round if state == RoundState.PENDING else dispatch.aggregate_round)(round_id)
    for step_id in list(RangeStep.objects.awaiting_worker(now).values_list("id", flat=True)):
        dispatch.run_range_step(step_id)
    for version_id in list(due_evaluations(now).values_list("id", flat=True)):
        dispatch.evaluate_version(version_id)


def _open_round(federation_id: uuid.UUID, now: datetime) -> None:
    try:
        open_scheduled_round(federation_id, now=now)
    except Refusal as refusal:
        log.debug("round_not_opened", federation_id=str(federation_id), code=refusal.code, detail=refusal.detail)
