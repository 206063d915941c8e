"""Rounds whose enclave host is gone: their keys lie there and nowhere else, so nobody takes their step any more."""

import uuid
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from enclave.models import EnclaveInstance
from training.models import RangeStep, Round, RoundState
from training.services.rounds import end_round, restart_round, take_from_ranges

log = structlog.get_logger(__name__)

SEEN_EVERY = timedelta(seconds=30)
LONGEST_GAP = timedelta(seconds=60)
"""Time in which the tick itself did not look says nothing of a host: of a longer gap no more than this counts."""


def begin_absent_rounds_anew(*, now: datetime) -> None:
    """Begin closed rounds anew, as with lost keys, whose enclave host showed no life for too long.

    How long is `QFLARE_ENCLAVE_ABSENT_SECONDS`, counted while ticks run: after the site was down as a whole its host
    has that time to come back. A host that takes the step, or works on any other round, is not gone. A round that was
    begun anew too often fails.
    """
    waiting = Round.objects.filter(state=RoundState.AGGREGATING, closed_at__lte=now - SEEN_EVERY).without_lease(now)
    due = waiting.filter(Q(unattended_at=None) | Q(unattended_at__lte=now - SEEN_EVERY))
    for round_ in list(due.only("unattended_at", "unattended_seconds")):
        _look_at(round_, now)


def _look_at(round_: Round, now: datetime) -> None:
    seen_before, seconds = round_.unattended_at, 0
    there = _host_is_there(round_.id, now)
    if not there and seen_before is not None:
        seconds = round_.unattended_seconds + round(min(now - seen_before, LONGEST_GAP).total_seconds())
    # Of two ticks that look at once one finds another time, and a worker that took the step meanwhile has cleared it.
    looked_at = Round.objects.filter(id=round_.id, state=RoundState.AGGREGATING, unattended_at=seen_before)
    if not looked_at.without_lease(now).update(unattended_at=None if there else now, unattended_seconds=seconds):
        return
    if seconds >= settings.QFLARE_ENCLAVE_ABSENT_SECONDS:
        _begin_anew(round_.id, seconds, now)


def _host_is_there(round_id: uuid.UUID, now: datetime) -> bool:
    """Say whether the host of a round's enclave holds a step of any round, or has prepared one just now."""
    own = EnclaveInstance.objects.filter(round_id=round_id, retired_at=None)
    of_host = EnclaveInstance.objects.filter(attestation_key__in=own.values("attestation_key"))
    if of_host.filter(prepared_at__gt=now - LONGEST_GAP).exists():
        return True
    served = of_host.filter(retired_at=None).order_by().values("round_id")
    held = Round.objects.filter(state=RoundState.AGGREGATING, lease_expires_at__gt=now, id__in=served)
    return held.exists() or RangeStep.objects.filter(lease_expires_at__gt=now, round__in=served).exists()


def _begin_anew(round_id: uuid.UUID, seconds: int, now: datetime) -> None:
    reason = f"The enclave host that holds the round's keys has taken no step of any round for {seconds} seconds."
    with transaction.atomic():
        holder = take_from_ranges(round_id, lease_time=timedelta(seconds=settings.QFLARE_LEASE_SECONDS), now=now)
        if holder is None:
            return  # a worker was faster
        log.warning("enclave_host_absent", round_id=str(round_id), seconds=seconds)
        if not restart_round(round_id, holder, reason=reason, now=now):
            end_round(round_id, RoundState.FAILED, reason=reason, actor="system", now=now)
