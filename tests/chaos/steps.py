"""The steps of a round, each with how it shows from outside that the round is at it.

Where a step is over in a moment the run holds a row that it needs, and waits until somebody waits for that.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection

from enclave.core.host import DIGEST_BYTES
from training.blob_store.folder import DRAFT_PREFIX
from training.models import UNFINISHED, Federation, RangeStep, RangeStepKind, Round, RoundState, Upload

POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Held:
    """The row that a step needs, and the state of the round from which on it is held."""

    model: type[Round] | type[Federation]
    state: RoundState
    submissions: int = 0


@dataclass(frozen=True)
class Step:
    """A step: `reached` looks at the round; `held` is the row without which it does not end."""

    name: str
    reached: Callable[[Round], bool]
    held: Held | None = None


def _draft_grows() -> bool:
    for draft in Path(settings.QFLARE_BLOB_DIR).glob(f"{DRAFT_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if draft.stat().st_size:
                return True
    return False


def _recorded_bytes(round_: Round) -> int:
    record = Path(settings.QFLARE_ENCLAVE_DIR) / "rounds" / f"{round_.id.bytes.hex()}.decision"
    try:
        return record.stat().st_size
    except FileNotFoundError:
        return 0


def _somebody_waits(_round: Round) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


def _uploads_by_pieces(round_: Round) -> bool:
    uploads = Upload.objects.filter(participation__round=round_, offset_bytes__gt=0)
    return round_.state == RoundState.OPEN and uploads.exists()


STEPS = (
    Step("pending", lambda round_: round_.state == RoundState.PENDING),
    Step("preparing", lambda round_: round_.state == RoundState.PENDING and round_.lease_holder is not None),
    Step("open", lambda round_: round_.state == RoundState.OPEN),
    Step("upload in one request", lambda round_: round_.state == RoundState.OPEN and _draft_grows()),
    Step("upload by pieces", _uploads_by_pieces),
    Step("counting the first", _somebody_waits, Held(Round, RoundState.OPEN)),
    Step("counting a later one", _somebody_waits, Held(Round, RoundState.OPEN, submissions=2)),
    Step("closing", lambda round_: round_.state == RoundState.AGGREGATING),
    Step(
        "aggregation begins", lambda round_: round_.state == RoundState.AGGREGATING and round_.lease_holder is not None
    ),
    Step("first pass", lambda round_: _recorded_bytes(round_) == DIGEST_BYTES),
    Step("second pass", lambda round_: _recorded_bytes(round_) == 2 * DIGEST_BYTES),
    Step("model leaves", lambda round_: round_.state == RoundState.AGGREGATING and _draft_grows()),
    Step("publishing", _somebody_waits, Held(Federation, RoundState.AGGREGATING)),
)


def _at_ranges(kind: RangeStepKind) -> Callable[[Round], bool]:
    """Return whether a worker has a step of this kind in hand."""

    def reached(round_: Round) -> bool:
        held = RangeStep.objects.filter(round=round_, kind=kind, message=None, lease_holder__isnull=False)
        return held.exists()

    return reached


def _between_ranges(kinds: set[str]) -> Callable[[Round], bool]:
    """Return whether a worker has the round itself in hand, its ranges having done steps of just these kinds."""

    def reached(round_: Round) -> bool:
        if round_.state != RoundState.AGGREGATING or round_.lease_holder is None:
            return False
        told = RangeStep.objects.filter(round=round_).values_list("kind", "message")
        return {kind for kind, _ in told} == kinds and all(message is not None for _, message in told)

    return reached


SHARED_STEPS = (
    Step("ranges are prepared", lambda round_: round_.state == RoundState.PENDING and round_.lease_holder is not None),
    Step("ranges read", _at_ranges(RangeStepKind.READ)),
    Step("ranges decide", _between_ranges({"read"})),
    Step("ranges combine", _at_ranges(RangeStepKind.COMBINE)),
    Step("ranges conclude", _between_ranges({"read", "decision", "combine"})),
)
"""What is other in a round whose model several sealed processes share."""


@contextlib.contextmanager
def at_step(step: Step, round_id: uuid.UUID, *, seconds: float = 60) -> Iterator[bool]:
    """Run the body when the round is at the step; with False where the round ended without being seen there."""
    with contextlib.ExitStack() as holding:
        if step.held is not None:
            wanted = step.held
            _wait_until(
                round_id, lambda now: now.state == wanted.state and now.submissions >= wanted.submissions, seconds
            )
            holding.enter_context(_row_held(wanted.model, round_id))
        yield _wait_until(round_id, step.reached, seconds)


def _wait_until(round_id: uuid.UUID, reached: Callable[[Round], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = Round.objects.get(id=round_id)
        if now.state not in UNFINISHED:
            return False
        if reached(now):
            return True
        time.sleep(POLL_SECONDS)
    return False


@contextlib.contextmanager
def _row_held(model: type[Any], round_id: uuid.UUID) -> Iterator[None]:
    """Hold a row as an update does, in a connection of our own; a killed database lets go of it."""
    row_id = round_id if model is Round else Round.objects.get(id=round_id).federation_id
    holder = psycopg.connect(os.environ["DATABASE_URL"])
    table = psycopg.sql.Identifier(model._meta.db_table)
    holder.execute(psycopg.sql.SQL("SELECT 1 FROM {} WHERE id = %s FOR NO KEY UPDATE").format(table), (row_id,))
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            holder.rollback()
        holder.close()
