"""The life of a round: `pending > open > aggregating > completed | failed | cancelled`.

Every transition is one conditional UPDATE whose row count says who won.
"""

import itertools
import random
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Q

from audit.services import record_event
from devices.models import Device, DeviceKey, DeviceState
from enclave.services import retire_instance
from qflare_protocol.cose import Verifier
from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import whole_number
from qflare_protocol.round_result import RosterEntry, roster_digest
from training import privacy
from training.models import (
    UNFINISHED,
    WAITING,
    Federation,
    FederationState,
    Participation,
    ParticipationState,
    RangeStep,
    Round,
    RoundQuerySet,
    RoundState,
    Update,
    Upload,
)
from training.services.late_updates import older_bases_of
from training.services.presence import present_for
from training.services.privacy_budget import require_budget
from training.services.schedules import idle_members
from training.services.selection import select_devices
from training.terms import MAX_EXTENSION_SECONDS, Mode

MAX_ROSTER_BYTES = 1 << 28
ALREADY_RUNNING = "A round of this federation is running already; wait for its end."
MAX_COUNTED_FAILURES = 12
MAX_RESTARTS = 3
LONGEST_WAIT_AFTER_FAILURES_SECONDS = 3600
CHANCE = random.SystemRandom()
PATIENCE_WITH_SILENCE = 5
"""A device that was silent for so many times as long as one is present does not keep a buffer waiting."""


def open_round(
    federation_id: uuid.UUID, *, actor: str, now: datetime, chance: random.Random = CHANCE, only_idle: bool = False
) -> Round:
    """Create a pending round and invite devices as the federation's terms say; its enclave is prepared next.

    With `only_idle` none are invited but those that are idle now.

    Raises `Refusal`: "not-found", "conflict" when the federation is not active, has had its planned
    rounds or has a round running, "too-few-updates" when fewer devices are active than the policy
    needs, "privacy-budget-spent" when its model would spend more than the federation's budget.
    """
    with transaction.atomic():
        # A submission's foreign keys point at this row: no_key lets them through, else the two would deadlock.
        federations = Federation.objects.select_for_update(of=("self",), no_key=True)
        federation = federations.filter(id=federation_id).first()
        if federation is None:
            raise Refusal("not-found", "There is no such federation.")
        number = _next_round_number(federation)
        require_budget(federation, privacy.noise_multiplier_of(federation.aggregation_policy()))
        idle = idle_members(federation, now) if only_idle else None
        invited = select_devices(federation, chance=chance, idle=idle)
        keys = DeviceKey.objects.current_signature_keys([device.id for device in invited.devices])
        roster = [RosterEntry(key.device_id.bytes, key.verifier) for key in keys]
        opened = _create_round(federation, number, roster, invited.target, now)
        Participation.objects.bulk_create(
            Participation(round=opened, device_id=key.device_id, signature_key=key) for key in keys
        )
        record_event(
            "round.created",
            actor=actor,
            payload=event_payload(opened) | {"invited": len(keys), "roster_digest": roster_digest(roster).hex()},
        )
    return opened


def open_scheduled_round(federation_id: uuid.UUID, *, now: datetime) -> Round:
    """Open a round for the schedule, which waits ever longer after rounds that failed one upon another.

    One that opens because devices are idle invites idle devices.

    Raises as `open_round`, and `Refusal("conflict")` while it waits.
    """
    failed = _failures_in_a_row(federation_id)
    if failed:
        wait = timedelta(seconds=min(2 ** len(failed), LONGEST_WAIT_AFTER_FAILURES_SECONDS))
        if now < failed[0] + wait:
            raise Refusal("conflict", f"The last {len(failed)} rounds failed; the next is opened in {wait.seconds} s.")
    by_idleness = Federation.objects.filter(id=federation_id, mode=Mode.SYNCHRONOUS, idle_devices__isnull=False)
    return open_round(federation_id, actor="schedule", now=now, only_idle=by_idleness.exists())


def _failures_in_a_row(federation_id: uuid.UUID) -> list[datetime]:
    """Return when the last rounds ended that failed one upon another, the latest first."""
    rounds = Round.objects.filter(federation_id=federation_id).order_by("-number")
    latest = rounds.values_list("state", "finished_at")[:MAX_COUNTED_FAILURES]
    failed = itertools.takewhile(lambda ended: ended[0] == RoundState.FAILED, latest)
    return [finished_at for _, finished_at in failed]


def _next_round_number(federation: Federation) -> int:
    if federation.state != FederationState.ACTIVE:
        raise Refusal("conflict", f"The federation is {federation.state}; resume it to open a round.")
    if federation.rounds.filter(state__in=UNFINISHED).exists():
        raise Refusal("conflict", ALREADY_RUNNING)
    last = federation.rounds.order_by("-number").values_list("number", flat=True).first() or 0
    completed = federation.rounds.filter(state=RoundState.COMPLETED).count()
    if federation.planned_rounds is not None and completed >= federation.planned_rounds:
        raise Refusal("conflict", f"The federation has had its {federation.planned_rounds} planned rounds.")
    return int(last) + 1


def _create_round(federation: Federation, number: int, roster: list[RosterEntry], target: int, now: datetime) -> Round:
    try:
        with transaction.atomic():
            return Round.objects.create(
                federation=federation,
                number=number,
                base_version=federation.current_version,
                policy=federation.policy,
                roster=encode([[entry.device_id, entry.verifier.algorithm, entry.verifier.public] for entry in roster]),
                older_bases=older_bases_of(federation, federation.current_version),
                invited=len(roster),
                minimum_updates=federation.aggregation_policy().minimum_updates,
                target_updates=target,
                created_at=now,
            )
    except IntegrityError as error:
        raise Refusal("conflict", ALREADY_RUNNING) from error


def roster_entries(round_: Round) -> list[RosterEntry]:
    """Return the devices invited to a round with the keys they had when it was created."""
    rows = decode(bytes(round_.roster), what="roster", maximum_bytes=MAX_ROSTER_BYTES)
    return [RosterEntry(device_id, Verifier(algorithm, public)) for device_id, algorithm, public in rows]


def close_round(round_id: uuid.UUID, *, now: datetime) -> bool:
    """Close an open round that is due, or put its deadline off; return whether this call did either.

    A round goes on to `aggregating` with at least the policy's minimum of updates and fails below it. At its
    deadline it waits on where its federation's terms allow it and a device that trains has reported of late.
    """
    with transaction.atomic():
        due = Round.objects.due_to_close(now).filter(id=round_id)
        if _put_off(round_id, now=now):
            return True
        if not due.update(
            state=RoundState.AGGREGATING, closed_at=now, attempts=0, lease_holder=None, lease_expires_at=None
        ):
            return False
        closed = Round.objects.select_related("federation").get(id=round_id)
        record_event(
            "round.closed", actor="system", payload=event_payload(closed) | {"submissions": closed.submissions}
        )
        if closed.submissions < closed.minimum_updates:
            reason = _too_few(closed, now)
            end_round(closed.id, RoundState.FAILED, reason=reason, actor="system", now=now)
    return True


def _too_few(closed: Round, now: datetime) -> str:
    needs = f"the policy needs {closed.minimum_updates}."
    if closed.failures and closed.deadline_at and now < closed.deadline_at:
        return f"{closed.failures} of {closed.invited} devices failed to train; {needs}"
    return f"{closed.submissions} updates came before the deadline; {needs}"


def _put_off(round_id: uuid.UUID, *, now: datetime) -> bool:
    """Put the deadline of a round off where it is past and the terms allow it; return whether this call did."""
    past = Round.objects.filter(id=round_id, state=RoundState.OPEN, deadline_at__lte=now)
    round_ = past.select_related("federation").first()
    if round_ is None or round_.submissions >= round_.target_updates or not _may_wait(round_, now):
        return False
    federation = round_.federation
    seconds = federation.round_seconds if round_.is_buffer else federation.extension_seconds
    # The count is the one that was read: of two workers that put it off, one finds another.
    deadline_at = now + timedelta(seconds=seconds)
    if not past.filter(extensions=round_.extensions).update(deadline_at=deadline_at, extensions=F("extensions") + 1):
        return False
    reason = "its buffer is not full" if round_.is_buffer else "devices still train"
    payload = event_payload(round_) | {"seconds": seconds, "reason": reason}
    record_event("round.extended", actor="system", payload=payload)
    return True


def _may_wait(round_: Round, now: datetime) -> bool:
    if round_.submissions + round_.failures >= round_.invited:
        return False
    if round_.is_buffer:
        return _can_be_filled(round_, now)
    if not round_.has_extensions_left:
        return False
    return round_.participations.filter(state__in=WAITING, progress_lease_until__gt=now).exists()


def _can_be_filled(buffer: Round, now: datetime) -> bool:
    """Say whether the active devices that may still hand in and were heard of late are enough for its target.

    Those that fell silent count only where the deadline is long past, or nobody at all is heard: then the site
    itself, or its web processes, may have been away.
    """
    valid = Q(signature_key__valid_until=None) | Q(signature_key__valid_until__gt=now)
    waiting = buffer.participations.filter(valid, state__in=WAITING, device__state=DeviceState.ACTIVE)
    present = present_for(buffer.federation.round_seconds)
    somebody_is_heard = Device.objects.filter(last_seen_at__gte=now - present).order_by().exists()
    if somebody_is_heard and now - buffer.deadline_at < present:
        heard = Q(device__last_seen_at__gte=now - PATIENCE_WITH_SILENCE * present) | Q(progress_lease_until__gt=now)
        waiting = waiting.filter(heard)
    return buffer.submissions + waiting.count() >= buffer.target_updates


@transaction.atomic
def extend_round(round_id: uuid.UUID, *, seconds: int, reason: str, actor: str, now: datetime) -> Round:
    """Put the deadline of an open round off by so many seconds, for an operator.

    Raises `Refusal`: "conflict" without a reason or for a round that is not open or past its deadline,
    "malformed-message" for a time that is not between a second and 30 days.
    """
    whole_number(seconds, 1, MAX_EXTENSION_SECONDS, what="extension in seconds")
    if not reason.strip():
        raise Refusal("conflict", "State the reason for the extension; it is kept in the audit log.")
    open_round = Round.objects.filter(id=round_id, state=RoundState.OPEN, deadline_at__gt=now)
    if not open_round.update(deadline_at=F("deadline_at") + timedelta(seconds=seconds)):
        raise Refusal("conflict", "The round is not open any more, or not yet.")
    extended = Round.objects.select_related("federation").get(id=round_id)
    payload = event_payload(extended) | {"seconds": seconds, "reason": reason.strip()}
    record_event("round.extended", actor=actor, payload=payload)
    return extended


def cancel_round(round_id: uuid.UUID, *, reason: str, actor: str, now: datetime) -> None:
    """Cancel a round that still runs. Raises `Refusal("conflict")` when it is over or no reason is given."""
    if not reason.strip():
        raise Refusal("conflict", "State the reason for the cancellation; it is kept in the audit log.")
    with transaction.atomic():
        if not end_round(round_id, RoundState.CANCELLED, reason=reason.strip(), actor=actor, now=now):
            raise Refusal("conflict", "The round is over already.")


def end_round(round_id: uuid.UUID, state: RoundState, *, reason: str, actor: str, now: datetime) -> bool:
    """Fail or cancel a running round inside the caller's transaction; return whether this call did."""
    ended = Round.objects.filter(id=round_id, state__in=UNFINISHED).update(
        state=state, end_reason=reason, finished_at=now, lease_holder=None, lease_expires_at=None
    )
    if not ended:
        return False
    finished = Round.objects.select_related("federation").get(id=round_id)
    record_event(f"round.{state.value}", actor=actor, payload=event_payload(finished) | {"reason": reason})
    retire(round_id, now=now)
    return True


def retire(round_id: uuid.UUID, *, now: datetime) -> None:
    """Destroy the keys of a round and what its ranges said to one another, inside the caller's transaction."""
    RangeStep.objects.filter(round_id=round_id).delete()
    retire_instance(round_id, now=now)


def restart_round(round_id: uuid.UUID, holder: uuid.UUID, *, reason: str, now: datetime) -> bool:
    """Begin a round anew with another enclave, because nobody can open what was sealed to this one.

    Happens inside the caller's transaction. Every device is invited again and seals to the new key, but those whose
    update an operator took out: it stays out, with its receipt, and counts among those who will not come.
    Returns False when the lease was lost or the round has been restarted too often already.
    """
    # Nobody else has rejected one before the enclave has judged, and a round that is not open loses no more of them.
    taken_out = Participation.objects.filter(round_id=round_id, state=ParticipationState.REJECTED)
    restarted = Round.objects.filter(id=round_id, lease_holder=holder, restarts__lt=MAX_RESTARTS).update(
        state=RoundState.PENDING,
        restarts=F("restarts") + 1,
        submissions=0,
        failures=taken_out.count(),
        extensions=0,
        attempts=0,
        opened_at=None,
        deadline_at=None,
        closed_at=None,
        lease_holder=None,
        lease_expires_at=None,
    )
    if not restarted:
        return False
    round_ = Round.objects.select_related("federation").get(id=round_id)
    again = round_.participations.exclude(state=ParticipationState.REJECTED)
    Update.objects.filter(participation__in=again).delete()
    Upload.objects.filter(participation__in=again).delete()  # sealed to the lost key too
    again.update(
        state=ParticipationState.INVITED, reason="", scores={}, downloaded_at=None, submitted_at=None,
        progress=None, progress_at=None, progress_lease_until=None, progress_metrics={},
    )  # fmt: skip
    record_event("round.restarted", actor="system", payload=event_payload(round_) | {"reason": reason})
    retire(round_id, now=now)
    return True


def take_lease(round_id: uuid.UUID, state: RoundState, *, lease_time: timedelta, now: datetime) -> uuid.UUID | None:
    """Take the running step of a round; None when it is elsewhere by now, or somebody holds it or a range of it."""
    return _take(Round.objects.awaiting_worker(now).filter(id=round_id, state=state), now + lease_time)


def take_from_ranges(round_id: uuid.UUID, *, lease_time: timedelta, now: datetime) -> uuid.UUID | None:
    """Take a round to end it or to begin it anew although its ranges are still at their steps; None as `take_lease`."""
    held_by_nobody = Round.objects.filter(id=round_id, state=RoundState.AGGREGATING).without_lease(now)
    return _take(held_by_nobody, now + lease_time)


def _take(rounds: RoundQuerySet, until: datetime) -> uuid.UUID | None:
    holder = uuid.uuid4()
    attended = {"unattended_at": None, "unattended_seconds": 0}
    taken = rounds.update(lease_holder=holder, lease_expires_at=until, attempts=F("attempts") + 1, **attended)
    return holder if taken else None


def extend_lease(round_id: uuid.UUID, holder: uuid.UUID, *, lease_time: timedelta, now: datetime) -> bool:
    """Keep a lease that is still ours; return False when it was lost."""
    return bool(Round.objects.filter(id=round_id, lease_holder=holder).update(lease_expires_at=now + lease_time))


def release_lease(round_id: uuid.UUID, holder: uuid.UUID) -> None:
    """Give a lease back, so that the next tick dispatches the step again at once."""
    Round.objects.filter(id=round_id, lease_holder=holder).update(lease_holder=None, lease_expires_at=None)


def event_payload(round_: Round) -> dict[str, Any]:
    """Return the members by which audit events name a round."""
    return {
        "round_id": str(round_.id),
        "round_number": round_.number,
        "federation_id": str(round_.federation_id),
        "federation": round_.federation.name,
    }
