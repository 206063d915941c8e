"""How a step that a worker runs is held, and what becomes of its round where it is refused."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from qflare_protocol.errors import Refusal
from training.blob_store.configured import blob_store
from training.blob_store.contract import BlobStoreUnavailable
from training.models import Round, RoundState
from training.services.carried_rows import forget_carried_rows
from training.services.publication import record_rejection
from training.services.rounds import end_round, restart_round
from training.storage_room import is_out_of_room, require_room

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
KEY_LOST = "decryption-failed"  # the round's keys open under the code, policy and host that wrapped them, or never
ROWS_LOST = "carried-rows-lost"  # so do the rows that the federation carries; the round's record names them
SPARE_BYTES = 1 << 20
"""What a step may write beside a model: keys, a decision record, rows of small models."""
TRANSIENT = frozenset({"enclave-failed", "service-unavailable"})


@contextmanager
def kept_lease(extend: Callable[[], object], lease_time: timedelta) -> Iterator[None]:
    """Extend a lease from a thread until the step ends; it stops with the process and only then.

    While the database is away nothing is extended and nothing is given up: it is asked again, on a new connection.
    """
    done = threading.Event()
    arguments = (done, extend, lease_time.total_seconds() / 3)
    thread = threading.Thread(target=_extend_until, args=arguments, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _extend_until(done: threading.Event, extend: Callable[[], object], interval_seconds: float) -> None:
    warned = False
    while not done.wait(interval_seconds):
        try:
            extend()
        except DatabaseFailure as error:
            if not warned:
                log.warning("lease_not_extended", reason=str(error).strip())
            warned = True
            connection.close()  # a broken one would fail at every further question
    connection.close()


def require_attempts(attempts: int) -> None:
    """Raise `Refusal("internal-error")` for a step that was started too often."""
    if attempts > MAX_ATTEMPTS:
        raise Refusal("internal-error", f"The step never ended in {MAX_ATTEMPTS} attempts; see the worker's log.")


def passes(refusal: Refusal, attempts: int) -> bool:
    """Return whether a step that was refused is worth another attempt."""
    return refusal.code in TRANSIENT and attempts < MAX_ATTEMPTS


def require_room_for_step(round_: Round) -> None:
    """Raise `OSError` where this host has no room for what a step of the round writes.

    It is asked before the step, so that a full disk costs neither an attempt nor a release of the privacy budget.
    Raises `BlobStoreUnavailable` where the store takes no blobs.
    """
    require_room(Path(settings.QFLARE_BLOB_DIR), 2 * round_.base_version.size_bytes + SPARE_BYTES)
    blob_store().require_writable()
    require_room(Path(settings.QFLARE_ENCLAVE_DIR), SPARE_BYTES)


def postpone(step: QuerySet[Any], error: OSError | BlobStoreUnavailable) -> None:
    """Let a held step wait for the end of its lease without counting the attempt: no room, or no blob store.

    Raises the error again where it says something else.
    """
    if isinstance(error, OSError) and not is_out_of_room(error):
        raise error
    log.error("step_postponed", reason=str(error))
    step.filter(attempts__gt=0).update(attempts=F("attempts") - 1)


def refuse_round(round_: Round, holder: uuid.UUID, refusal: Refusal) -> None:
    """Begin the round anew where keys or rows were lost; else fail it. Nothing changes where the lease was lost."""
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
