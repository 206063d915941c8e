"""The steps that workers run: prepare a round's enclave, aggregate its updates, publish the result.

A step is held by a lease that a thread keeps alive while the step runs. Whoever lost the lease
changes nothing: the row count of the final UPDATE decides.
"""

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from audit.services import record_event
from enclave import services as enclave
from enclave.models import EnclaveInstance
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import JudgedRound
from training.blob_store.contract import BlobStoreUnavailable
from training.blobs import StoredBlob
from training.models import Round, RoundState
from training.services import range_steps
from training.services.carried_rows import Outputs, carried_rows, replace_carried_rows
from training.services.leases import (
    MAX_ATTEMPTS,
    kept_lease,
    passes,
    postpone,
    refuse_round,
    require_attempts,
    require_room_for_step,
)
from training.services.publication import LeaseLost, publish_result, time_step
from training.services.releases import LeavingModel
from training.services.round_sources import given_of, load_model, ranges_of
from training.services.rounds import event_payload, extend_lease, release_lease, take_lease

__all__ = ["MAX_ATTEMPTS", "aggregate_round", "load_model", "prepare_round"]

log = structlog.get_logger(__name__)


def prepare_round(round_id: uuid.UUID, *, now: datetime) -> bool:
    """Let a sealed process make the round's keys, then open the round; return whether this call did."""
    return _run_step(round_id, RoundState.PENDING, _prepare, now)


def aggregate_round(round_id: uuid.UUID, *, now: datetime) -> bool:
    """Aggregate a closed round in its enclave and publish the model; return whether this call did.

    On a host that does not hold the round's sealing key nothing is begun: another worker takes it.
    """
    if not enclave.is_served_here(round_id):
        return False
    return _run_step(round_id, RoundState.AGGREGATING, _aggregate, now)


def _run_step(round_id: uuid.UUID, state: RoundState, step: Callable[[Round, uuid.UUID], None], now: datetime) -> bool:
    lease_time = timedelta(seconds=settings.QFLARE_LEASE_SECONDS)
    holder = take_lease(round_id, state, lease_time=lease_time, now=now)
    if holder is None:
        return False
    round_ = Round.objects.select_related("federation", "base_version").get(id=round_id)
    try:
        require_attempts(round_.attempts)
        require_room_for_step(round_)
        with kept_lease(lambda: _extend(round_id, holder, lease_time), lease_time):
            step(round_, holder)
    except LeaseLost:
        return False
    except Refusal as refusal:
        _step_refused(round_, holder, refusal)
        return False
    except (OSError, BlobStoreUnavailable) as error:
        postpone(Round.objects.filter(id=round_id, lease_holder=holder), error)
        return False
    return True


def _extend(round_id: uuid.UUID, holder: uuid.UUID, lease_time: timedelta) -> None:
    extend_lease(round_id, holder, lease_time=lease_time, now=timezone.now())


def _step_refused(round_: Round, holder: uuid.UUID, refusal: Refusal) -> None:
    """A passing failure gives the lease back for another try, lost keys begin the round anew; all else fails it."""
    log.warning("round_step_refused", round_id=str(round_.id), code=refusal.code, detail=refusal.detail)
    if passes(refusal, round_.attempts):
        release_lease(round_.id, holder)
        return
    refuse_round(round_, holder, refusal)


def _prepare(round_: Round, holder: uuid.UUID) -> None:
    started_at, started = timezone.now(), time.monotonic()
    federation = round_.federation
    if round_.restarts:
        enclave.destroy_retired_keys(now=started_at)  # what the lost enclave decided must not bind the new one
    policy, count = round_.aggregation_policy(), ranges_of(round_)
    prepared = [enclave.start_enclave(round_.id, federation.id, policy, index, count) for index in range(count)]
    now = timezone.now()
    with transaction.atomic():
        opened = Round.objects.filter(id=round_.id, state=RoundState.PENDING, lease_holder=holder).update(
            state=RoundState.OPEN,
            opened_at=now,
            deadline_at=now + timedelta(seconds=federation.round_seconds),
            lease_holder=None,
            lease_expires_at=None,
        )
        if not opened:
            raise LeaseLost
        instances = [
            enclave.record_instance(one, round_.id, federation.id, index, count, now=now)
            for index, one in enumerate(prepared)
        ]
        payload = event_payload(round_) | {"key_id": bytes(instances[0].key_id).hex()}
        record_event("round.opened", actor="system", payload=payload)
        time_step(round_, "prepare", started_at, time.monotonic() - started)


def _aggregate(round_: Round, holder: uuid.UUID) -> None:
    instances = enclave.live_instances(round_.id)
    if len(instances) > 1 and range_steps.advance(round_, holder):
        return
    started_at = timezone.now() if len(instances) == 1 else round_.closed_at  # ranges have been at it since
    with LeavingModel(round_) as leaving:
        judged, carried = (_by_one if len(instances) == 1 else _by_ranges)(round_, instances, leaving)
        aggregate_seconds = (timezone.now() - started_at).total_seconds()
        publish_at, publish_started = timezone.now(), time.monotonic()
        sealed = leaving.seal()
    if sealed.digest != judged.result.model_digest:
        raise Refusal("enclave-failed", "The model that arrived is not the one the enclave signed.")
    with transaction.atomic():
        publish_result(round_, holder, sealed, judged, leaving.release)
        for instance, rows in zip(instances, carried, strict=True):
            replace_carried_rows(round_, bytes(instance.key_id), rows)
        time_step(round_, "collect", round_.opened_at, (round_.closed_at - round_.opened_at).total_seconds())
        time_step(round_, "aggregate", started_at, aggregate_seconds)
        time_step(round_, "publish", publish_at, time.monotonic() - publish_started)
    enclave.destroy_retired_keys(now=timezone.now())


Outcome = tuple[JudgedRound, list[dict[str, StoredBlob]]]
"""A result with its verdicts, and the rows that each range carries on."""


def _by_one(round_: Round, instances: list[EnclaveInstance], leaving: LeavingModel) -> Outcome:
    given = given_of(round_, instances[0], carried_rows(round_.federation_id))
    size = round_.base_version.size_bytes
    with Outputs(leaving.take, base_model_bytes=size, devices=len(given.roster)) as outputs:
        judged = enclave.aggregate(
            instances[0],
            given,
            write_output=outputs.write,
            on_step=lambda name, seconds: log.info("enclave_step", round_id=str(round_.id), step=name, seconds=seconds),
        )
        return judged, [outputs.store_carried_rows()]


def _by_ranges(round_: Round, instances: list[EnclaveInstance], leaving: LeavingModel) -> Outcome:
    given, task = range_steps.concluding(round_, instances)
    with Outputs(leaving.take, base_model_bytes=round_.base_version.size_bytes, devices=0) as outputs:
        judged = enclave.conclude_ranges(instances[0], given, task, write_output=outputs.write)
    return judged, [range_steps.carried_on(round_, index) for index in range(len(instances))]
