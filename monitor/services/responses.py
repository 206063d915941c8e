"""Answers to incidents: each carried out in a transaction of its own, audited, and undone where that is possible."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils.dateparse import parse_datetime

from audit.models import Event
from audit.services import record_event
from devices import services as devices
from devices.models import Device
from monitor.models import Incident, Response, ResponseState
from monitor.services.deliveries import announce
from monitor.services.incidents import incident_payload, tell
from monitor.terms import ACTOR, Action
from qflare_protocol.errors import Refusal
from sessions import services as sessions
from training.models import Federation
from training.services.federations import pause_federation, resume_federation

Memory = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """How one action is done, returning a sentence and what undoing it needs; and how it is undone, where it can be."""

    do: Callable[[Incident, str, datetime], tuple[str, Memory]]
    undo: Callable[[Response, str, str, datetime], None] | None = None


def carry_out_due(*, now: datetime) -> None:
    """Carry out every response that is due; one that is refused has failed and says why."""
    for response_id in list(
        Response.objects.filter(state=ResponseState.DUE).order_by("id").values_list("id", flat=True)
    ):
        with transaction.atomic():
            _carry_out(response_id, now)


def _carry_out(response_id: int, now: datetime) -> None:
    due = Response.objects.filter(id=response_id, state=ResponseState.DUE)
    if not due.update(state=ResponseState.DONE, carried_out_at=now):  # another monitor was faster
        return
    response = Response.objects.select_related("incident").get(id=response_id)
    try:
        with transaction.atomic():
            response.detail, response.memory = ANSWERS[Action(response.action)].do(
                response.incident, response.target, now
            )
    except Refusal as refusal:
        response.state, response.detail = ResponseState.FAILED, refusal.detail
    response.save(update_fields=("state", "detail", "memory"))
    done = response.state == ResponseState.DONE
    tell(
        response.incident,
        f"{response}: {response.detail}" if done else f"{response} failed: {response.detail}",
        ACTOR,
        now,
    )
    payload = _payload(response) | {"detail": response.detail}
    record_event("response.done" if done else "response.failed", actor=ACTOR, payload=payload, now=now)


def is_undoable(response: Response) -> bool:
    """Say whether an operator can take a response back."""
    return response.state == ResponseState.DONE and ANSWERS[Action(response.action)].undo is not None


@transaction.atomic
def undo_response(response_id: int, *, reason: str, actor: str, now: datetime) -> Response:
    """Take a response back. Raises `Refusal`: "not-found", "conflict" where it cannot be, or without a reason."""
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    response = (
        Response.objects.select_for_update(of=("self",)).select_related("incident").filter(id=response_id).first()
    )
    if response is None:
        raise Refusal("not-found", "There is no such response.")
    undo = ANSWERS[Action(response.action)].undo
    if undo is None or response.state != ResponseState.DONE:
        raise Refusal("conflict", _why_not(response))
    undo(response, reason.strip(), actor, now)
    response.state, response.undone_at = ResponseState.UNDONE, now
    response.save(update_fields=("state", "undone_at"))
    tell(response.incident, f"{response} undone: {reason.strip()}", actor, now)
    record_event("response.undone", actor=actor, payload=_payload(response) | {"reason": reason.strip()}, now=now)
    return response


def _why_not(response: Response) -> str:
    if response.state != ResponseState.DONE:
        return f"The response is {response.state}."
    if response.action == Action.REVOKE_SESSIONS:
        return "A session's keys are gone when it has ended; the device opens another one."
    return "Who was told was told."


def _payload(response: Response) -> dict[str, Any]:
    what = {"response": str(response), "action": response.action, "target": response.target}
    return incident_payload(response.incident) | what


def _reason(incident: Incident) -> str:
    return f"incident {incident.id}, rule {incident.rule}"


def _device(name: str) -> Device:
    device = Device.objects.filter(name=name).first()
    if device is None:
        raise Refusal("not-found", f"There is no device {name}.")
    return device


def _federation(name: str) -> Federation:
    federation = Federation.objects.filter(name=name).first()
    if federation is None:
        raise Refusal("not-found", f"There is no federation {name}.")
    return federation


def _notify(incident: Incident, target: str, now: datetime) -> tuple[str, Memory]:
    return f"{announce(incident, now=now)} channels are told.", {}


def _revoke_sessions(incident: Incident, target: str, now: datetime) -> tuple[str, Memory]:
    ended = sessions.end_sessions_of_device(_device(target).id, reason=_reason(incident), actor=ACTOR, now=now)
    return f"{ended} sessions have ended.", {}


def _demand_keys(incident: Incident, target: str, now: datetime) -> tuple[str, Memory]:
    device = _device(target)
    if device.must_rotate_keys(now):
        raise Refusal("conflict", "New keys were due already.")
    devices.demand_key_rotation(device.id, reason=_reason(incident), actor=ACTOR, now=now)
    return "It has to register new keys.", {"demanded_at": now.isoformat(), "due_at": device.keys_due_at.isoformat()}


def _withdraw_demand(response: Response, reason: str, actor: str, now: datetime) -> None:
    times = {name: parse_datetime(response.memory[name]) for name in ("demanded_at", "due_at")}
    devices.withdraw_key_demand(_device(response.target).id, **times, reason=reason, actor=actor, now=now)


def _suspend(incident: Incident, target: str, now: datetime) -> tuple[str, Memory]:
    sessions.suspend_device(_device(target).id, reason=_reason(incident), actor=ACTOR, now=now)
    return "It is refused until it is resumed.", {}


def _resume_device(response: Response, reason: str, actor: str, now: datetime) -> None:
    device = _device(response.target)
    if device.state_reason != _reason(response.incident):
        raise Refusal("conflict", f"The device is {device.state} for another reason by now: {device.state_reason}")
    devices.resume_device(device.id, reason=reason, actor=actor, now=now)


def _pause(incident: Incident, target: str, now: datetime) -> tuple[str, Memory]:
    pause_federation(_federation(target).id, actor=ACTOR)
    return "It opens no further rounds.", {}


def _resume_federation(response: Response, reason: str, actor: str, now: datetime) -> None:
    federation = _federation(response.target)
    pauses = Event.objects.filter(kind="federation.paused", payload__federation_id=str(federation.id))
    last = pauses.order_by("-id").first()
    if last is None or last.actor != ACTOR:
        raise Refusal("conflict", "The federation has been paused by somebody else since.")
    resume_federation(federation.id, actor=actor)


ANSWERS = {
    Action.NOTIFY: Answer(_notify),
    Action.REVOKE_SESSIONS: Answer(_revoke_sessions),
    Action.DEMAND_KEYS: Answer(_demand_keys, _withdraw_demand),
    Action.SUSPEND_DEVICE: Answer(_suspend, _resume_device),
    Action.PAUSE_FEDERATION: Answer(_pause, _resume_federation),
}
"""How each action is done and undone."""
