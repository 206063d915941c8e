"""The steps that workers run: prepare a round's enclave, aggregate its updates, publish the result.

A step is held by a lease that a thread keeps alive while the step runs. Whoever lost the lease
changes nothing: the row count of the final UPDATE decides.
"""

import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from audit.services import record_event
from enclave import services as enclave
from enclave.courier import OpenBlob, SealedUpdate
from keyring import envelope
from qflare_protocol.chunked import open_chunks
from qflare_protocol.errors import Refusal
from training.blobs import open_blob, pieces_of
from training.models import (
    ModelVersion,
    Round,
    RoundState,
    Update,
)
from training.services.carried_rows import Outputs, carried_rows, forget_carried_rows, replace_carried_rows
from training.services.federations import MODEL_CONTEXT, seal_model
from training.services.publication import LeaseLost, publish_result, record_rejection, time_step
from training.services.releases import LeavingModel
from training.services.rounds import (
    end_round,
    event_payload,
    extend_lease,
    release_lease,
    restart_round,
    roster_entries,
    take_lease,
)

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
KEY_LOST = "decryption-failed"  # the round's keys open under the code, policy and host that wrapped them, or never
ROWS_LOST = "carried-rows-lost"  # so do the rows that the federation carries; the round's record names them
TRANSIENT = frozenset({"enclave-failed", "service-unavailable"})


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
        if round_.attempts > MAX_ATTEMPTS:
            raise Refusal("internal-error", f"The step never ended in {MAX_ATTEMPTS} attempts; see the worker's log.")
        with _kept_lease(round_id, holder, lease_time):
            step(round_, holder)
    except LeaseLost:
        return False
    except Refusal as refusal:
        _step_refused(round_, holder, refusal)
        return False
    return True


@contextmanager
def _kept_lease(round_id: uuid.UUID, holder: uuid.UUID, lease_time: timedelta) -> Iterator[None]:
    """Extend the lease from a thread until the step ends; it stops with the process and only then."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(lease_time.total_seconds() / 3):
            extend_lease(round_id, holder, lease_time=lease_time, now=timezone.now())
        connection.close()

    thread = threading.Thread(target=keep, name=f"lease-{round_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _step_refused(round_: Round, holder: uuid.UUID, refusal: Refusal) -> None:
    """A passing failure gives the lease back for another try, lost keys begin the round anew; all else fails it."""
    log.warning("round_step_refused", round_id=str(round_.id), code=refusal.code, detail=refusal.detail)
    if refusal.code in TRANSIENT and round_.attempts < MAX_ATTEMPTS:
        release_lease(round_.id, holder)
        return
    reason, now = f"{refusal.problem.title} {refusal.detail}", timezone.now()
    with transaction.atomic():
        if refusal.code in (KEY_LOST, ROWS_LOST) and restart_round(round_.id, holder, reason=reason, now=now):
            if refusal.code == ROWS_LOST:
                forget_carried_rows(round_, reason=reason)
            return
        if not Round.objects.filter(id=round_.id, lease_holder=holder).exists():
            return
        for verdict in refusal.extensions.get("verdicts", ()):
            if verdict["accepted"]:
                continue
            record_rejection(round_, uuid.UUID(hex=verdict["device_id"]), verdict["reason"])
        end_round(round_.id, RoundState.FAILED, reason=reason, actor="system", now=now)


def _prepare(round_: Round, holder: uuid.UUID) -> None:
    started_at, started = timezone.now(), time.monotonic()
    federation = round_.federation
    if round_.restarts:
        enclave.destroy_retired_keys(now=started_at)  # what the lost enclave decided must not bind the new one
    prepared = enclave.start_enclave(round_.id, federation.id, round_.aggregation_policy())
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
        instance = enclave.record_instance(prepared, round_.id, federation.id, now=now)
        record_event(
            "round.opened", actor="system", payload=event_payload(round_) | {"key_id": bytes(instance.key_id).hex()}
        )
        time_step(round_, "prepare", started_at, time.monotonic() - started)


def _aggregate(round_: Round, holder: uuid.UUID) -> None:
    started_at, started = timezone.now(), time.monotonic()
    instance = enclave.live_instance(round_.id)
    base, roster, leaving = load_model(round_.base_version), roster_entries(round_), LeavingModel(round_)
    with Outputs(leaving.take, base_model_bytes=len(base), devices=len(roster)) as outputs:
        signed, result = enclave.aggregate(
            instance,
            federation_id=round_.federation_id,
            policy=round_.aggregation_policy(),
            roster=roster,
            base_model_digest=bytes(round_.base_version.digest),
            open_base_model=lambda: io.BytesIO(base),
            updates=_sealed_updates(round_),
            carried=carried_rows(round_.federation_id),
            write_output=outputs.write,
            on_step=lambda name, seconds: log.info("enclave_step", round_id=str(round_.id), step=name, seconds=seconds),
        )
        carried = outputs.store_carried_rows()
    aggregate_seconds = time.monotonic() - started
    publish_at, publish_started = timezone.now(), time.monotonic()
    sealed = seal_model(round_.federation_id, round_.base_version.number + 1, bytes(leaving.model))
    if sealed.digest != result.model_digest:
        raise Refusal("enclave-failed", "The model that arrived is not the one the enclave signed.")
    with transaction.atomic():
        publish_result(round_, holder, sealed, signed, result, leaving.release)
        replace_carried_rows(round_, bytes(instance.key_id), carried)
        time_step(round_, "collect", round_.opened_at, (round_.closed_at - round_.opened_at).total_seconds())
        time_step(round_, "aggregate", started_at, aggregate_seconds)
        time_step(round_, "publish", publish_at, time.monotonic() - publish_started)
    enclave.destroy_retired_keys(now=timezone.now())


def load_model(version: ModelVersion) -> bytes:
    """Return a stored model version, decrypted. Raises `Refusal("internal-error")` when its blob is damaged."""
    key = envelope.unwrap(
        bytes(version.wrapped_content_key), **ModelVersion.envelope(version.federation_id, version.number)
    )
    try:
        with open_blob(version.blob_digest) as blob:
            return b"".join(open_chunks(key, pieces_of(blob), context=MODEL_CONTEXT))
    except Refusal as refusal:  # never to be taken for a lost enclave key
        raise Refusal("internal-error", f"The stored model of {version} is damaged: {refusal.detail}") from refusal


def _sealed_updates(round_: Round) -> list[SealedUpdate]:
    updates = Update.objects.filter(participation__round=round_).select_related("participation")
    return [
        SealedUpdate(update.participation.device_id.bytes, bytes(update.manifest), _opener(update.blob_digest))
        for update in updates.order_by("participation__device_id")
    ]


def _opener(digest: str) -> OpenBlob:
    return lambda: open_blob(digest)
