"""Telling people: each channel has a message of its own for each incident, tried again until it arrives or is given up.

A message is claimed in one transaction, sent outside of any, and finished in another: one whose worker
dies in between is sent again, with the same id and body, by which a receiver knows the repeat.
"""

import json
import secrets
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import F

from audit.services import record_event
from keyring.envelope import EnvelopeError
from keyring.kek import KekError
from monitor import webhooks
from monitor.models import ChannelKind, Delivery, DeliveryState, Incident, NotificationChannel
from monitor.rules import RULES
from monitor.services.channels import check_address, signing_key
from monitor.services.incidents import incident_payload
from monitor.terms import ACTOR, Severity
from monitor.webhooks import NotDelivered
from qflare_protocol.errors import Refusal

MOST_ATTEMPTS = 12
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=30), timedelta(hours=6)
CLAIM = timedelta(minutes=10)
"""Longer than any run takes: a claimed message is nobody else's for so long."""
MESSAGES_OF_ONE_RUN = 5
"""Few, so that receivers that do not answer hold a worker for a minute at most."""

log = structlog.get_logger(__name__)

Jitter = Callable[[], float]
"""A number from 0 to 1."""
_at_random: Jitter = secrets.SystemRandom().random


def announce(incident: Incident, *, now: datetime) -> int:
    """Make a message for every channel that wants incidents of this severity, inside the caller's transaction."""
    severity = Severity(incident.severity)
    channels = [
        channel
        for channel in NotificationChannel.objects.filter(enabled=True)
        if severity.reaches(Severity(channel.least_severity))
    ]
    body = json.dumps(_message(incident), sort_keys=True)
    rows = [Delivery(channel=channel, incident=incident, body=body, next_attempt_at=now) for channel in channels]
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _message(incident: Incident) -> dict[str, object]:
    rule = RULES.get(incident.rule)
    data = incident_payload(incident) | {
        "subject_kind": incident.subject_kind,
        "severity": incident.severity,
        "event_count": incident.event_count,
        "sentence": rule.sentence if rule else "",
    }
    return {"type": "incident.opened", "timestamp": incident.opened_at.isoformat(), "data": data}


def deliver_due(*, now: datetime, jitter: Jitter = _at_random) -> int:
    """Try messages that are due, the longest due first, each once; return how many arrived."""
    due = Delivery.objects.filter(state=DeliveryState.WAITING, next_attempt_at__lte=now, channel__enabled=True)
    ids = list(due.order_by("next_attempt_at").values_list("id", flat=True)[:MESSAGES_OF_ONE_RUN])
    return sum(_try(delivery_id, now, jitter) for delivery_id in ids)


def wait_after(attempts: int, jitter: Jitter) -> timedelta:
    """Return how long to wait after so many attempts: twice as long each time, and between half and all of that."""
    full = min(FIRST_WAIT * 2 ** (attempts - 1), LONGEST_WAIT)
    return full * (0.5 + jitter() / 2)


def _try(delivery_id: uuid.UUID, now: datetime, jitter: Jitter) -> bool:
    delivery = _claim(delivery_id, now)
    if delivery is None:
        return False
    try:
        _send(delivery, now)
    except NotDelivered as failure:
        _wait_or_give_up(delivery, str(failure), now, jitter)
        return False
    _finish(delivery, DeliveryState.DELIVERED, "", now)
    return True


def _claim(delivery_id: uuid.UUID, now: datetime) -> Delivery | None:
    """Take a message for one attempt; None where another worker has it, or has had it, since it was found due."""
    due = Delivery.objects.filter(id=delivery_id, state=DeliveryState.WAITING, next_attempt_at__lte=now)
    if not due.update(attempts=F("attempts") + 1, next_attempt_at=now + CLAIM):
        return None
    return Delivery.objects.select_related("channel", "incident").get(id=delivery_id)


def _send(delivery: Delivery, now: datetime) -> None:
    channel = delivery.channel
    if channel.kind == ChannelKind.EMAIL:
        _send_email(delivery)
        return
    try:
        check_address(ChannelKind.WEBHOOK, channel.address)
        key = signing_key(channel)
    except Refusal as refusal:
        raise NotDelivered("address not allowed") from refusal
    except (EnvelopeError, KekError) as error:
        raise NotDelivered("the secret does not open") from error
    webhooks.send(channel.address, key, str(delivery.id), delivery.body.encode(), now=now)


def _send_email(delivery: Delivery) -> None:
    data = json.loads(delivery.body)["data"]
    subject = f"[QFLARE] {data['severity']}: {data['rule']}, {data['subject']}"
    lines = (data["sentence"], f"Events so far: {data['event_count']}", f"Incident: {data['incident_id']}")
    message = EmailMessage(
        subject, "\n".join(lines), to=[delivery.channel.address], headers={"Message-ID": f"<{delivery.id}@qflare>"}
    )
    try:
        message.send()
    except OSError as error:  # smtplib's errors are
        raise NotDelivered(type(error).__name__) from error


def _wait_or_give_up(delivery: Delivery, error: str, now: datetime, jitter: Jitter) -> None:
    log.warning("notification.not_delivered", channel=delivery.channel.name, attempts=delivery.attempts, reason=error)
    if delivery.attempts >= MOST_ATTEMPTS:
        _finish(delivery, DeliveryState.FAILED, error, now)
        return
    next_attempt_at = now + wait_after(delivery.attempts, jitter)
    Delivery.objects.filter(id=delivery.id, attempts=delivery.attempts).update(
        next_attempt_at=next_attempt_at, last_error=error[:200]
    )


@transaction.atomic
def _finish(delivery: Delivery, state: DeliveryState, error: str, now: datetime) -> None:
    """End a message with its event; where a second worker ended it, nothing is left to do."""
    waiting = Delivery.objects.filter(id=delivery.id, state=DeliveryState.WAITING)
    if not waiting.update(state=state, last_error=error[:200], finished_at=now):
        return
    payload = {
        "channel": delivery.channel.name,
        "incident_id": str(delivery.incident_id),
        "attempts": delivery.attempts,
    }
    if state == DeliveryState.DELIVERED:
        record_event("notification.delivered", actor=ACTOR, payload=payload, now=now)
    else:
        record_event("notification.failed", actor=ACTOR, payload=payload | {"error": error}, now=now)
