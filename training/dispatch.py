"""What is due at once: the service's step, and the hint that spares the wait for the next tick."""

import uuid
from datetime import datetime

import structlog
from kombu.exceptions import OperationalError as BrokerError

from training.models import Round
from training.services.rounds import open_round
from training.tasks import DISPATCH_EXPIRES_SECONDS, prepare_round, tick

log = structlog.get_logger(__name__)


def start_round(federation_id: uuid.UUID, *, actor: str, now: datetime) -> Round:
    """Open a round and tell a worker. Raises as `open_round`.

    A broker that does not take the hint costs nothing: the round is in the database, and beat's tick
    finds it there.
    """
    opened = open_round(federation_id, actor=actor, now=now)
    try:
        prepare_round.apply_async((str(opened.id),), expires=DISPATCH_EXPIRES_SECONDS)
    except BrokerError as error:
        log.warning("round_hint_not_sent", round_id=str(opened.id), error=type(error).__name__)
    return opened


def hint_if_due(round_id: uuid.UUID, *, now: datetime) -> None:
    """Ask for a tick where a round has just become due to close: the last update has come, or too many failed.

    Beat's tick finds the round too; a broker that does not take the hint costs a second.
    """
    if not Round.objects.due_to_close(now).filter(id=round_id).exists():
        return
    try:
        tick.apply_async(expires=DISPATCH_EXPIRES_SECONDS)
    except BrokerError as error:
        log.warning("tick_hint_not_sent", round_id=str(round_id), error=type(error).__name__)
