"""Rounds whose model several sealed processes share: the steps of each range, and what brings them together.

    read > (sight > read-again) > decision > combine > the new version

What is between the arrows is a set of rows, one for each range or one of the round. A range's step is due
while its row has no message; any worker of the enclave host takes it under a lease, and a lease that a dead
worker leaves runs out. The round's own step, under the round's lease, is due when no range's is: it decides,
or puts the model together.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from enclave import services as enclave
from enclave.core.fan_out import Said
from enclave.core.range_messages import SIGHT
from enclave.core.second_pass import MODEL
from enclave.models import EnclaveInstance
from enclave.range_courier import RangeTask
from enclave.round_given import RoundGiven, SealedRow
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.errors import Refusal
from training.blob_store.contract import BlobStoreUnavailable
from training.blobs import StoredBlob, opener_of
from training.models import RangeOutput, RangeStep, RangeStepKind, Round, RoundState
from training.services.carried_rows import Outputs, carried_rows
from training.services.leases import (
    kept_lease,
    passes,
    postpone,
    refuse_round,
    require_attempts,
    require_room_for_step,
)
from training.services.publication import LeaseLost
from training.services.round_sources import given_of
from training.services.rounds import release_lease, take_from_ranges

log = structlog.get_logger(__name__)


def run_range_step(step_id: int, *, now: datetime) -> bool:
    """Run one step of one range; return whether this call did.

    On a host that does not hold the round's sealing key nothing is begun: another worker takes it.
    """
    due = RangeStep.objects.awaiting_worker(now).filter(id=step_id)
    round_id = due.values_list("round_id", flat=True).first()
    free = RangeStep.objects.free(now).filter(id=step_id)
    if round_id is None or not enclave.is_served_here(round_id):
        return False
    holder, lease_time = uuid.uuid4(), timedelta(seconds=settings.QFLARE_LEASE_SECONDS)
    if not free.update(lease_holder=holder, lease_expires_at=now + lease_time, attempts=F("attempts") + 1):
        return False
    step = RangeStep.objects.select_related("round__federation", "round__base_version").get(id=step_id)
    held = RangeStep.objects.filter(id=step_id, lease_holder=holder)
    try:
        require_attempts(step.attempts)
        require_room_for_step(step.round)
        with kept_lease(lambda: held.update(lease_expires_at=timezone.now() + lease_time), lease_time):
            _keep(step, holder, *_work(step))
    except LeaseLost:
        return False
    except Refusal as refusal:
        _refused(step, holder, refusal)
        return False
    except (OSError, BlobStoreUnavailable) as error:
        postpone(held, error)
        return False
    return True


def _work(step: RangeStep) -> tuple[Said, dict[str, StoredBlob]]:
    """Let a sealed process do the step; changes no state here."""
    round_, index = step.round, step.range_index
    instances = enclave.live_instances(round_.id)
    carried = carried_rows(round_.federation_id, index)
    given = given_of(round_, instances[index], carried)
    task = RangeTask(step.kind, index, _key_ids(instances), _told(step))
    size = round_.base_version.size_bytes
    with Outputs(_no_model, base_model_bytes=size, devices=len(given.roster)) as outputs:
        said = enclave.run_range_step(given, task, write_output=outputs.write)
        return said, outputs.store_carried_rows()


def _no_model(piece: bytes) -> None:
    raise Refusal("enclave-failed", "A range gives out a model, which only all of them together have.")


def _told(step: RangeStep) -> list[bytes]:
    """Return what the round has decided for this step; a first reading is told nothing."""
    before = {RangeStepKind.READ_AGAIN: RangeStepKind.SIGHT, RangeStepKind.COMBINE: RangeStepKind.DECISION}
    kind = before.get(RangeStepKind(step.kind))
    return [] if kind is None else messages_of(step.round, kind)


def _keep(step: RangeStep, holder: uuid.UUID, said: Said, stored: dict[str, StoredBlob]) -> None:
    with transaction.atomic():
        held = RangeStep.objects.filter(id=step.id, lease_holder=holder, message=None)
        if not held.update(message=said.message, lease_holder=None, lease_expires_at=None):
            raise LeaseLost
        RangeOutput.objects.bulk_create(
            RangeOutput(step=step, name=name, blob_digest=blob.digest, blob_bytes=blob.size_bytes)
            for name, blob in stored.items()
        )


def _refused(step: RangeStep, holder: uuid.UUID, refusal: Refusal) -> None:
    """A passing failure gives the step back for another try; whatever else it is, is the round's end or new start."""
    log.warning("range_step_refused", round_id=str(step.round_id), code=refusal.code, detail=refusal.detail)
    held = RangeStep.objects.filter(id=step.id, lease_holder=holder)
    if passes(refusal, step.attempts):
        held.update(lease_holder=None, lease_expires_at=None)
        return
    if not held.exists():
        return
    lease_time = timedelta(seconds=settings.QFLARE_LEASE_SECONDS)
    of_round = take_from_ranges(step.round_id, lease_time=lease_time, now=timezone.now())
    if of_round is not None:
        refuse_round(step.round, of_round, refusal)


def advance(round_: Round, holder: uuid.UUID) -> bool:
    """Do what the round has to do between the steps of its ranges, and give its lease back.

    Returns False, with nothing done, when only putting the model together is left: see `concluding`. Raises
    `LeaseLost` where ranges are still at their steps.
    """
    if RangeStep.objects.filter(round=round_, message=None).exists():  # opened while this lease was waited for
        release_lease(round_.id, holder)
        raise LeaseLost
    kinds = set(RangeStep.objects.filter(round=round_).values_list("kind", flat=True))
    if RangeStepKind.COMBINE in kinds:
        return False
    if RangeStepKind.READ not in kinds:
        _open(round_, holder, RangeStepKind.READ)
        return True
    instances = enclave.live_instances(round_.id)
    task = RangeTask(
        "decide",
        0,
        _key_ids(instances),
        messages_of(round_, RangeStepKind.READ),
        messages_of(round_, RangeStepKind.READ_AGAIN),
    )
    said = enclave.run_range_step(given_of(round_, instances[0], carried_rows(round_.federation_id, 0)), task)
    if said.kind == SIGHT:
        _open(round_, holder, RangeStepKind.READ_AGAIN, RangeStepKind.SIGHT, said.message)
    else:
        _open(round_, holder, RangeStepKind.COMBINE, RangeStepKind.DECISION, said.message)
    return True


def _open(
    round_: Round,
    holder: uuid.UUID,
    kind: RangeStepKind,
    decided: RangeStepKind | None = None,
    message: bytes | None = None,
) -> None:
    """Make the next steps of all ranges due, and give the round's lease back until they are done."""
    with transaction.atomic():
        held = Round.objects.filter(id=round_.id, state=RoundState.AGGREGATING, lease_holder=holder)
        if not held.update(lease_holder=None, lease_expires_at=None, attempts=0):
            raise LeaseLost
        steps = [
            RangeStep(round=round_, kind=kind, range_index=index)
            for index in range(len(enclave.live_key_ids(round_.id)))
        ]
        if decided is not None:
            steps.append(RangeStep(round=round_, kind=decided, range_index=0, message=message))
        RangeStep.objects.bulk_create(steps)


def concluding(round_: Round, instances: Sequence[EnclaveInstance]) -> tuple[RoundGiven, RangeTask]:
    """Return what the process is given and told that puts the model together of the slices."""
    outputs = RangeOutput.objects.filter(step__round=round_, name__startswith=f"{MODEL}@")
    slices = [
        SealedRow(
            CarriedRow(one.name, bytes(instances[one.step.range_index].key_id), bytes.fromhex(one.blob_digest)),
            opener_of(one.blob_digest),
        )
        for one in outputs.select_related("step").order_by("step__range_index")
    ]
    told = [*messages_of(round_, RangeStepKind.DECISION), *messages_of(round_, RangeStepKind.COMBINE)]
    return given_of(round_, instances[0], slices), RangeTask("conclude", 0, _key_ids(instances), told)


def carried_on(round_: Round, index: int) -> dict[str, StoredBlob]:
    """Return the rows that a range left for the next round, by name."""
    outputs = RangeOutput.objects.filter(step__round=round_, step__range_index=index)
    left = outputs.exclude(name__startswith=f"{MODEL}@")
    return {one.name: StoredBlob(one.blob_digest, one.blob_bytes) for one in left}


def messages_of(round_: Round, kind: RangeStepKind) -> list[bytes]:
    """Return what the steps of one kind have said, in the order of their ranges."""
    steps = RangeStep.objects.filter(round=round_, kind=kind).order_by("range_index")
    return [bytes(message) for message in steps.values_list("message", flat=True)]


def _key_ids(instances: Sequence[EnclaveInstance]) -> tuple[bytes, ...]:
    return tuple(bytes(instance.key_id) for instance in instances)
