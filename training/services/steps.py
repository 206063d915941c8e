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
from dataclasses import asdict
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
from qflare_protocol.round_result import RoundResult, result_digest
from training.blobs import open_blob, pieces_of
from training.models import (
    Federation,
    FederationState,
    ModelVersion,
    Participation,
    ParticipationState,
    Round,
    RoundState,
    RoundStep,
    Update,
)
from training.services.federations import MODEL_CONTEXT, SealedModel, seal_model, store_version
from training.services.rounds import (
    end_round,
    event_payload,
    extend_lease,
    release_lease,
    roster_entries,
    take_lease,
)

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
TRANSIENT = frozenset({"enclave-failed", "service-unavailable"})


class LeaseLost(Exception):  # noqa: N818 - losing a race is a normal outcome, not an error
    """Another worker has taken the step over; this one leaves without a trace."""


def prepare_round(round_id: uuid.UUID, *, now: datetime) -> bool:
    """Let a sealed process make the round's keys, then open the round; return whether this call did."""
    return _run_step(round_id, RoundState.PENDING, _prepare, now)


def aggregate_round(round_id: uuid.UUID, *, now: datetime) -> bool:
    """Aggregate a closed round in its enclave and publish the model; return whether this call did."""
    return _run_step(round_id, RoundState.AGGREGATING, _aggregate, now)


def _run_step(round_id: uuid.UUID, state: RoundState, step: Callable[[Round, uuid.UUID], None], now: datetime) -> bool:
    lease_time = timedelta(seconds=settings.QFLARE_LEASE_SECONDS)
    holder = take_lease(round_id, state, lease_time=lease_time, now=now)
    if holder is None:
        return False
    round_ = Round.objects.select_related("federation", "base_version").get(id=round_id)
    try:
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
    """A passing failure gives the lease back for another try; anything else, or too many, fails the round."""
    log.warning("round_step_refused", round_id=str(round_.id), code=refusal.code, detail=refusal.detail)
    if refusal.code in TRANSIENT and round_.attempts < MAX_ATTEMPTS:
        release_lease(round_.id, holder)
        return
    with transaction.atomic():
        if not Round.objects.filter(id=round_.id, lease_holder=holder).exists():
            return
        reason = f"{refusal.problem.title} {refusal.detail}"
        end_round(round_.id, RoundState.FAILED, reason=reason, actor="system", now=timezone.now())


def _prepare(round_: Round, holder: uuid.UUID) -> None:
    started_at, started = timezone.now(), time.monotonic()
    federation = round_.federation
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
        _time_step(round_, "prepare", started_at, time.monotonic() - started)


def _aggregate(round_: Round, holder: uuid.UUID) -> None:
    started_at, started = timezone.now(), time.monotonic()
    instance = enclave.live_instance(round_.id)
    base, model = load_model(round_.base_version), bytearray()
    signed, result = enclave.aggregate(
        instance,
        federation_id=round_.federation_id,
        policy=round_.aggregation_policy(),
        roster=roster_entries(round_),
        base_model_digest=bytes(round_.base_version.digest),
        open_base_model=lambda: io.BytesIO(base),
        updates=_sealed_updates(round_),
        write_model=model.extend,
        on_step=lambda name, seconds: log.info("enclave_step", round_id=str(round_.id), step=name, seconds=seconds),
    )
    aggregate_seconds = time.monotonic() - started
    publish_at, publish_started = timezone.now(), time.monotonic()
    sealed = seal_model(round_.federation_id, round_.base_version.number + 1, bytes(model))
    if sealed.digest != result.model_digest:
        raise Refusal("enclave-failed", "The model that arrived is not the one the enclave signed.")
    with transaction.atomic():
        _complete_round(round_, holder, sealed, signed, result)
        _time_step(round_, "collect", round_.opened_at, (round_.closed_at - round_.opened_at).total_seconds())
        _time_step(round_, "aggregate", started_at, aggregate_seconds)
        _time_step(round_, "publish", publish_at, time.monotonic() - publish_started)
    enclave.destroy_round_key(round_.id)


def load_model(version: ModelVersion) -> bytes:
    """Return a stored model version, decrypted."""
    key = envelope.unwrap(
        bytes(version.wrapped_content_key), **ModelVersion.envelope(version.federation_id, version.number)
    )
    with open_blob(version.blob_digest) as blob:
        return b"".join(open_chunks(key, pieces_of(blob), context=MODEL_CONTEXT))


def _sealed_updates(round_: Round) -> list[SealedUpdate]:
    updates = Update.objects.filter(participation__round=round_).select_related("participation")
    return [
        SealedUpdate(update.participation.device_id.bytes, bytes(update.manifest), _opener(update.blob_digest))
        for update in updates.order_by("participation__device_id")
    ]


def _opener(digest: str) -> OpenBlob:
    return lambda: open_blob(digest)


def _complete_round(round_: Round, holder: uuid.UUID, sealed: SealedModel, signed: bytes, result: RoundResult) -> None:
    now = timezone.now()
    federation = round_.federation
    held = Round.objects.select_for_update(of=("self",)).filter(
        id=round_.id, state=RoundState.AGGREGATING, lease_holder=holder
    )
    if not held.exists():
        raise LeaseLost
    version = store_version(federation, sealed, provenance=signed, now=now)
    Round.objects.filter(id=round_.id).update(
        state=RoundState.COMPLETED,
        resulting_version=version,
        finished_at=now,
        lease_holder=None,
        lease_expires_at=None,
    )
    Federation.objects.filter(id=federation.id).update(current_version=version)
    _record_verdicts(round_, result)
    record_event(
        "round.completed",
        actor="system",
        payload=event_payload(round_)
        | {
            "version": version.number,
            "model_digest": result.model_digest.hex(),
            "result_digest": result_digest(signed).hex(),
            "accepted": len(result.accepted),
            "rejected": len(result.rejected),
        },
    )
    enclave.retire_instance(round_.id, now=now)
    _finish_when_planned(federation)


def _record_verdicts(round_: Round, result: RoundResult) -> None:
    for verdict in result.verdicts:
        part = Participation.objects.select_related("device").get(
            round=round_, device_id=uuid.UUID(bytes=verdict.device_id)
        )
        part.state = ParticipationState.ACCEPTED if verdict.accepted else ParticipationState.REJECTED
        part.reason = verdict.reason or ""
        part.scores = asdict(verdict.scores) if verdict.scores else {}
        part.save(update_fields=("state", "reason", "scores"))
        if not verdict.accepted:
            record_event(
                "update.rejected",
                actor="enclave",
                payload=event_payload(round_) | {"device": part.device.name, "reason": verdict.reason},
            )


def _finish_when_planned(federation: Federation) -> None:
    completed = federation.rounds.filter(state=RoundState.COMPLETED).count()
    if federation.planned_rounds is not None and completed >= federation.planned_rounds:
        Federation.objects.filter(id=federation.id, state=FederationState.ACTIVE).update(state=FederationState.FINISHED)
        record_event(
            "federation.finished",
            actor="system",
            payload={"federation_id": str(federation.id), "federation": federation.name, "rounds": completed},
        )


def _time_step(round_: Round, name: str, started_at: datetime, seconds: float) -> None:
    RoundStep.objects.update_or_create(round=round_, name=name, defaults={"started_at": started_at, "seconds": seconds})
