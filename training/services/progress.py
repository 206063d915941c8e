"""What devices say of their training: it keeps a round waiting for them, or tells it not to wait."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F

from audit.services import record_event
from devices.models import Device
from qflare_protocol.progress import FAILED, MAX_REASON, ProgressReport
from training.models import WAITING, Federation, Participation, ParticipationState, Round, RoundState, Update
from training.services.rounds import event_payload

REPORTS_PER_ROUND = 60
SHORTEST_SECONDS, LONGEST_SECONDS = 5, 300
LEASE_REPORTS = 3
"""How many reports a device may miss before it counts as silent."""


@transaction.atomic
def report_progress(device: Device, report: ProgressReport, *, now: datetime) -> dict[str, Any]:
    """Take a report and say whether the device is to go on, why not, until when, and when to report again.

    A round that the device has no part in looks like one that is over. Whether a round can still reach its
    minimum is for the tick to judge: a device's request sees no other device's part.
    """
    part = (
        Participation.objects.filter(device=device, round_id=uuid.UUID(bytes=report.round_id))
        .select_related("round__federation", "signature_key")
        .defer("round__roster")
        .first()
    )
    if part is None:
        return _answer("The device has no part in that round.")
    over = _why_over(part, now)
    if over:
        return _answer(over, part.round)
    if report.state == FAILED:
        return _answer(_fail(device, part, report, now=now), part.round)
    kept = _waiting(part).update(
        progress=report.fraction,
        progress_at=now,
        progress_lease_until=lease_until(part.round.federation, now),
        progress_metrics=report.metrics,
        **({} if report.loss is None else {"loss": report.loss}),
    )
    return _answer("" if kept else "The round is over; ask for work.", part.round)


def lease_until(federation: Federation, now: datetime) -> datetime:
    """Return until when a device counts as at work that was heard in a round of the federation at this moment."""
    return now + timedelta(seconds=LEASE_REPORTS * _report_again_seconds(federation))


def _why_over(part: Participation, now: datetime) -> str:
    round_ = part.round
    if not round_.takes_updates_at(now):
        return f"Round {round_.number} takes no more updates{': ' if round_.end_reason else ''}{round_.end_reason}"
    if part.state not in WAITING:
        return f"The device's part in round {round_.number} is {part.state}."
    if part.signature_key.valid_until is not None and part.signature_key.valid_until <= now:
        return "The key with which the device was invited is over."
    return ""


def _waiting(part: Participation) -> Any:
    return Participation.objects.filter(id=part.id, state__in=WAITING, round__state=RoundState.OPEN)


def _fail(device: Device, part: Participation, report: ProgressReport, *, now: datetime) -> str:
    """End a device's part without an update; the round's row is taken first, as a submission takes it."""
    open_round = Round.objects.filter(id=part.round_id, state=RoundState.OPEN)
    if not open_round.update(failures=F("failures")):
        return "The round is over; ask for work."
    reason = report.reason or "the device gave no reason"
    if Update.objects.filter(participation=part).exists():
        return "The device has handed its update in."
    failed = _waiting(part).update(
        state=ParticipationState.FAILED, reason=reason, progress=report.fraction, progress_at=now,
        progress_lease_until=None,
    )  # fmt: skip
    if failed:
        open_round.update(failures=F("failures") + 1)
        payload = event_payload(part.round) | {"device": device.name, "reason": reason}
        record_event("update.failed", actor=device.actor, payload=payload)
    return "The device's part in the round is over, as it reported."


def _report_again_seconds(federation: Federation) -> int:
    return min(max(federation.round_seconds // REPORTS_PER_ROUND, SHORTEST_SECONDS), LONGEST_SECONDS)


def _answer(reason: str, round_: Round | None = None) -> dict[str, Any]:
    """Say that the device goes on where there is no reason against it."""
    deadline = round_.deadline_at if round_ else None
    reason = " ".join(reason.split())[:MAX_REASON]  # an operator's may have lines
    return {
        "continue": not reason,
        "reason": reason,
        "deadline": int(deadline.timestamp()) if deadline else 0,
        "report_again_seconds": _report_again_seconds(round_.federation) if round_ else LONGEST_SECONDS,
    }
