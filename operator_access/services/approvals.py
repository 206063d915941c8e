"""Approvals: one person asks, another one agrees or refuses, and what was asked for is done then or never."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from audit.kinds import register_kind
from audit.services import record_event
from operator_access.models import ApprovalRequest, ApprovalState
from operator_admin.actions import Action, Wish, action_by_name, as_posted
from operator_admin.party import Party
from qflare_protocol.errors import Refusal

LIFETIME = timedelta(hours=24)
_KINDS = {
    "approval.asked": "{what} of {target} was asked for; it takes a second person",
    "approval.approved": "{what} of {target}, asked for by {asked_by}, was approved: {remark}",
    "approval.refused": "{what} of {target}, asked for by {asked_by}, was refused: {remark}",
    "approval.withdrawn": "{what} of {target} was withdrawn by whoever asked for it",
    "approval.expired": "{what} of {target}, asked for by {asked_by}, found no second person in time",
    "approval.used": "The approval of {what} of {target} was used",
}


def register_approval_events() -> None:
    """Register the kinds."""
    for kind, sentence in _KINDS.items():
        register_kind(kind, sentence)


@transaction.atomic
def ask_for(wish: Wish, *, user: Any, actor: str, now: datetime) -> ApprovalRequest:
    """Write down what somebody asks for; `user` is None for a shell.

    Raises `Refusal("conflict")` where the same is asked for already.
    """
    expire_approvals(now=now)
    try:
        with transaction.atomic():
            row = ApprovalRequest.objects.create(
                subject=wish.action.subject,
                action=wish.action.name,
                label=wish.action.label,
                target=wish.target,
                target_name=wish.target_name,
                answers=dict(wish.data),
                from_shell=user is None,
                asked_by=user,
                asked_by_name=str(actor),
                asked_at=now,
                expires_at=now + LIFETIME,
            )
    except IntegrityError as error:
        raise Refusal("conflict", f"{wish.action.label} of {wish.target_name} is asked for already.") from error
    _record("approval.asked", row, actor, now)
    return row


@transaction.atomic
def approve(request_id: uuid.UUID, *, user: Any, remark: str, now: datetime) -> str:
    """Agree, and do it at once in the same transaction; return what was done.

    Raises `Refusal("conflict")` for a request that is not pending any more or one's own, and whatever refusal the
    action itself meets; then the request stays pending.
    """
    row = _decided(request_id, ApprovalState.APPROVED, user=user, remark=remark, now=now)
    action = action_by_name(row.action)
    _require(_may(action, user, row.target), "You may not do this yourself, so you cannot approve it.")
    _require(_asker_may(action, row), f"{row.asked_by_name} may not do this any more.")
    _record("approval.approved", row, _party(user), now, remark=row.remark)
    form = action.form(row.target, as_posted(row.answers))
    _require(form.is_valid(), "What was filled in does not hold any more; refuse it and ask anew.")
    asker = row.asked_by_name if row.from_shell else _party(row.asked_by)
    return action.perform(row.target, form, asker)


@transaction.atomic
def refuse(request_id: uuid.UUID, *, user: Any, remark: str, now: datetime) -> None:
    """Refuse what another person asked for. Raises `Refusal("conflict")`."""
    row = _decided(request_id, ApprovalState.REFUSED, user=user, remark=remark, now=now)
    _require(_may(action_by_name(row.action), user, row.target), "You may not decide on this.")
    _record("approval.refused", row, _party(user), now, remark=row.remark)


@transaction.atomic
def withdraw(request_id: uuid.UUID, *, user: Any, now: datetime) -> None:
    """Take back what one asked for oneself. Raises `Refusal("conflict")`."""
    mine = _pending(now).filter(id=request_id, asked_by=user)
    decided = {"decided_by": user, "decided_by_name": str(_party(user)), "decided_at": now}
    _require(mine.update(state=ApprovalState.WITHDRAWN, **decided), "Only what you asked for and is pending.")
    _record("approval.withdrawn", ApprovalRequest.objects.get(id=request_id), _party(user), now)


@transaction.atomic
def expire_approvals(*, now: datetime) -> int:
    """Close what found no second person in time; return how many that were."""
    late = list(ApprovalRequest.objects.filter(state=ApprovalState.PENDING, expires_at__lte=now))
    return sum(_expired(row, now) for row in late)


@transaction.atomic
def use_approval(request_id: uuid.UUID, action: str, *, actor: str, now: datetime) -> None:
    """Use an approval for the one time that a command may run. Raises `Refusal("approval-required")`."""
    usable = ApprovalRequest.objects.filter(
        id=request_id, action=action, state=ApprovalState.APPROVED, used_at=None, decided_at__gt=now - LIFETIME
    )
    if not usable.update(used_at=now):
        raise Refusal(
            "approval-required", f"There is no approval {request_id} of {action} that is not used or too old."
        )
    _record("approval.used", ApprovalRequest.objects.get(id=request_id), actor, now)


def may_decide(row: ApprovalRequest, user: Any) -> bool:
    """Whether a person is one who may approve or refuse: another than who asked, with the same right."""
    try:
        return row.asked_by_id != user.pk and _may(action_by_name(row.action), user, row.target)
    except Refusal:
        return False


def _decided(request_id: uuid.UUID, state: ApprovalState, *, user: Any, remark: str, now: datetime) -> ApprovalRequest:
    """Settle who decides: of two at once, one."""
    _require(remark.strip(), "Write a remark; it is kept in the audit log.")
    others = _pending(now).filter(id=request_id).exclude(asked_by=user)
    decided = {"decided_by": user, "decided_by_name": str(_party(user)), "decided_at": now, "remark": remark.strip()}
    try:
        with transaction.atomic():
            changed = others.update(state=state, **decided)
    except IntegrityError as error:  # asked for in a shell under the same name
        raise Refusal("conflict", "It takes another person than the one who asked.") from error
    _require(changed, "It is not pending any more, or you asked for it yourself.")
    return ApprovalRequest.objects.select_related("asked_by").get(id=request_id)


def _pending(now: datetime) -> QuerySet[ApprovalRequest]:
    return ApprovalRequest.objects.filter(state=ApprovalState.PENDING, expires_at__gt=now)


def _expired(row: ApprovalRequest, now: datetime) -> bool:
    if not ApprovalRequest.objects.filter(id=row.id, state=ApprovalState.PENDING).update(state=ApprovalState.EXPIRED):
        return False
    _record("approval.expired", row, "system", now)
    return True


def _may(action: Action, user: Any, target: str) -> bool:
    return bool(user.is_active) and action.permitted(user, target)


def _asker_may(action: Action, row: ApprovalRequest) -> bool:
    """Whether who asked may still do it; somebody who was deleted may not."""
    return row.from_shell or (row.asked_by is not None and _may(action, row.asked_by, row.target))


def _party(user: Any) -> Party:
    return Party("operator", user.get_username(), user.pk)


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise Refusal("conflict", sentence)


def _record(kind: str, row: ApprovalRequest, actor: str, now: datetime, **more: str) -> None:
    names = {
        "approval_id": str(row.id), "what": row.label, "target": row.target_name, "asked_by": row.asked_by_name,
        "action": row.action,
    }  # fmt: skip
    record_event(kind, actor=actor, payload=names | more, now=now)
