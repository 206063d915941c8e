"""Celery entry points of training: ids in, a service call, nothing else."""

import uuid

import structlog
from celery import Task, shared_task
from django.utils import timezone

from enclave.services import keep_process_ready
from qflare_protocol.errors import Refusal
from training.services import blob_sweep, evaluation, range_steps, rounds, steps
from training.services.tick import Dispatch
from training.services.tick import tick as run_tick

log = structlog.get_logger(__name__)

# A dispatch that is not picked up within this time has been repeated by later ticks: let it lapse.
DISPATCH_EXPIRES_SECONDS = 10
SWEEP_AGAIN_SECONDS = 10


@shared_task
def prepare_round(round_id: str) -> None:
    """Prepare a round's enclave and open the round."""
    steps.prepare_round(uuid.UUID(round_id), now=timezone.now())
    keep_process_ready()


@shared_task
def aggregate_round(round_id: str) -> None:
    """Aggregate a closed round and publish the model."""
    if steps.aggregate_round(uuid.UUID(round_id), now=timezone.now()):
        tick()  # here: the next round need not wait for a message


@shared_task
def run_range_step(step_id: int) -> None:
    """Run one step of one range of a round whose model several sealed processes share."""
    if range_steps.run_range_step(step_id, now=timezone.now()):
        tick.apply_async(expires=DISPATCH_EXPIRES_SECONDS)


@shared_task
def evaluate_version(version_id: int) -> None:
    """Evaluate a model version on held-out data."""
    evaluation.evaluate_version(version_id, now=timezone.now())


@shared_task
def open_scheduled_round(federation_id: str) -> None:
    """Open a round when the schedule says so; one that still runs, or a federation at its end, is left alone."""
    try:
        opened = rounds.open_scheduled_round(uuid.UUID(federation_id), now=timezone.now())
    except Refusal as refusal:
        log.info("scheduled_round_not_opened", federation_id=federation_id, detail=refusal.detail)
        return
    prepare_round.apply_async((str(opened.id),), expires=DISPATCH_EXPIRES_SECONDS)


@shared_task(bind=True)
def sweep_blobs(self: Task) -> None:
    """Delete blobs that nothing needs any more.

    Where other work that takes long has the turn it asks again in a while, until beat sends the next sweep.
    """
    if blob_sweep.sweep_blobs(now=timezone.now()) is None and self.request.expires:
        sweep_blobs.apply_async(countdown=SWEEP_AGAIN_SECONDS, expires=self.request.expires)


@shared_task
def tick() -> None:
    """Ask the database what is due, and dispatch it."""
    run_tick(
        Dispatch(
            prepare_round=lambda id_: prepare_round.apply_async((str(id_),), expires=DISPATCH_EXPIRES_SECONDS),
            aggregate_round=lambda id_: aggregate_round.apply_async((str(id_),), expires=DISPATCH_EXPIRES_SECONDS),
            run_range_step=lambda id_: run_range_step.apply_async((id_,), expires=DISPATCH_EXPIRES_SECONDS),
            evaluate_version=lambda id_: evaluate_version.apply_async((id_,), expires=DISPATCH_EXPIRES_SECONDS),
        ),
        now=timezone.now(),
    )
