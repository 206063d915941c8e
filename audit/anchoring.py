"""The verbs of anchoring: plan what is due, lay it down, try again, and tell what was missed."""

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import structlog
from django.db import transaction

from audit.anchors import AnchorError, AnchorPlan, configured_anchors
from audit.models import AnchorReceipt, AnchorState
from audit.services import current_checkpoint, record_event

ANCHORS_FILE = PurePosixPath("anchors.jsonl")
FIRST_RETRY = timedelta(minutes=1)
LONGEST_RETRY = timedelta(hours=1)
MAX_ATTEMPTS = 12
"""With waits that double from a minute to an hour: some seven hours."""
LEASE = timedelta(minutes=2)

log = structlog.get_logger(__name__)


def anchor_log(*, now: datetime, plans: Sequence[AnchorPlan] | None = None) -> int:
    """Plan what is due at each anchor and lay down what waits; return how many receipts came."""
    plans = configured_anchors() if plans is None else plans
    for plan in plans:
        plan_anchor(plan, now=now)
    return sum(publish_due(plan, now=now) for plan in plans)


def plan_anchor(plan: AnchorPlan, *, now: datetime) -> AnchorReceipt | None:
    """Have the current checkpoint anchored if the last one is long enough ago; return the row, if one was made."""
    head = current_checkpoint()
    last = AnchorReceipt.objects.filter(anchor=plan.name).order_by("-id").first()
    if head is None or (last is not None and now - last.created_at < timedelta(seconds=plan.every_seconds)):
        return None
    row, made = AnchorReceipt.objects.get_or_create(
        checkpoint=head,
        anchor=plan.name,
        defaults={"kind": plan.kind, "next_attempt_at": now, "created_at": now},
    )
    return row if made else None


def publish_due(plan: AnchorPlan, *, now: datetime) -> int:
    """Lay down every checkpoint whose time has come at an anchor; return how many receipts came."""
    due = AnchorReceipt.objects.filter(anchor=plan.name, state=AnchorState.PENDING, next_attempt_at__lte=now)
    return sum(_publish(row_id, plan, now) for row_id in due.order_by("id").values_list("id", flat=True))


def _publish(row_id: int, plan: AnchorPlan, now: datetime) -> bool:
    """Try once, outside of any transaction; the row is taken first, so that two workers do not both try."""
    waiting = AnchorReceipt.objects.filter(id=row_id, state=AnchorState.PENDING, next_attempt_at__lte=now)
    if not waiting.update(next_attempt_at=now + LEASE):
        return False
    row = AnchorReceipt.objects.select_related("checkpoint").get(id=row_id)
    try:
        receipt = plan.anchor.publish(row.checkpoint.note)
        plan.anchor.verify(receipt, row.checkpoint.note)
    except AnchorError as error:
        _note_failure(row, str(error), now)
        return False
    done = {"state": AnchorState.COMPLETED, "receipt": receipt, "error": "", "done_at": now}
    AnchorReceipt.objects.filter(id=row.pk, state=AnchorState.PENDING).update(attempts=row.attempts + 1, **done)
    return True


def _note_failure(row: AnchorReceipt, error: str, now: datetime) -> None:
    """Wait twice as long each time; after the last attempt the anchor is missed, and the log tells of it."""
    attempts = row.attempts + 1
    wait = min(FIRST_RETRY * 2 ** (attempts - 1), LONGEST_RETRY)
    log.warning("anchor.not_reached", anchor=row.anchor, attempts=attempts, error=error)
    changes = {"attempts": attempts, "error": error[:500], "next_attempt_at": now + wait}
    if attempts < MAX_ATTEMPTS:
        AnchorReceipt.objects.filter(id=row.pk).update(**changes)
        return
    with transaction.atomic():
        AnchorReceipt.objects.filter(id=row.pk).update(state=AnchorState.FAILED, **changes)
        payload = {"anchor": row.anchor, "size": row.checkpoint.size, "attempts": attempts}
        record_event("log.anchor_missed", actor="system", payload=payload, now=now)


def missed_anchors(*, now: datetime, plans: Sequence[AnchorPlan] | None = None) -> list[str]:
    """Return the names of anchors that have had no receipt for twice their interval, or never one since then."""
    missed = []
    for plan in configured_anchors() if plans is None else plans:
        rows = AnchorReceipt.objects.filter(anchor=plan.name)
        last = rows.filter(state=AnchorState.COMPLETED).order_by("-id").first()
        since = last.done_at if last is not None else rows.order_by("id").values_list("created_at", flat=True).first()
        if since is not None and now - since > 2 * timedelta(seconds=plan.every_seconds):
            missed.append(plan.name)
    return missed


def export_anchors(size: int) -> Iterator[bytes]:
    """Yield the lines of `anchors.jsonl` for a log of that size, in order of size."""
    rows = AnchorReceipt.objects.filter(state=AnchorState.COMPLETED, checkpoint__size__lte=size)
    for row in rows.select_related("checkpoint").order_by("checkpoint__size", "id").iterator(chunk_size=500):
        line = {
            "anchor": row.anchor,
            "kind": row.kind,
            "note": row.checkpoint.note,
            "receipt": b64encode(row.receipt).decode(),
            "anchored_at": row.done_at.isoformat() if row.done_at else None,
        }
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
