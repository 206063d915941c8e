"""Incidents: opened and extended by the monitor, acknowledged, assigned, noted and closed by operators."""

import uuid
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet

from audit.models import Event
from audit.services import record_event
from monitor.models import Incident, IncidentState, Response, Sighting, TimelineEntry
from monitor.rules import Finding, Rule
from monitor.terms import ACTOR, Action, Subject, SubjectKind, Terms
from qflare_protocol.errors import Refusal


def note_sighting(rule: Rule, terms: Terms, finding: Finding, event: Event, *, now: datetime) -> None:
    """Keep what a rule found in an event, inside the caller's transaction: extend the incident, or open one.

    What was kept before changes nothing when it comes again.
    """
    subject = finding.subject
    _, is_new = Sighting.objects.get_or_create(
        event=event,
        rule=rule.name,
        subject_kind=subject.kind,
        subject_name=subject.name,
        defaults={"occurred_at": event.occurred_at},
    )
    if not is_new or _extend(rule, subject, event) or cooling_down(rule, subject, terms, now):
        return
    waiting = _waiting(rule, subject).filter(occurred_at__gt=event.occurred_at - terms.window)
    if not rule.counts or waiting.count() >= terms.threshold:
        incident = open_incident(rule, terms, finding, now=now, last_event_at=event.occurred_at)
        Incident.objects.filter(id=incident.id).update(event_count=waiting.update(incident=incident))
        add_responses(incident, terms)


def _waiting(rule: Rule, subject: Subject) -> QuerySet[Sighting]:
    return Sighting.objects.filter(rule=rule.name, subject_kind=subject.kind, subject_name=subject.name, incident=None)


def _extend(rule: Rule, subject: Subject, event: Event) -> bool:
    """Give a new sighting to the incident that is not closed; return whether there is one.

    The row is taken first, so that nobody closes the incident meanwhile.
    """
    incident = Incident.objects.unclosed(rule.name, subject).select_for_update(no_key=True).first()
    if incident is None:
        return False
    attached = _waiting(rule, subject).filter(event=event).update(incident=incident)
    latest = max(incident.last_event_at, event.occurred_at)
    Incident.objects.filter(id=incident.id).update(event_count=F("event_count") + attached, last_event_at=latest)
    return True


def cooling_down(rule: Rule, subject: Subject, terms: Terms, now: datetime) -> bool:
    """Say whether an incident of this rule and subject was closed so recently that none opens yet."""
    return Incident.objects.about(rule.name, subject).filter(closed_at__gt=now - terms.cool_down).exists()


def open_incident(rule: Rule, terms: Terms, finding: Finding, *, now: datetime, last_event_at: datetime) -> Incident:
    """Open an incident inside the caller's transaction; its responses follow with `add_responses`."""
    incident = Incident.objects.create(
        rule=rule.name,
        subject_kind=finding.subject.kind,
        subject_name=finding.subject.name,
        severity=terms.severity,
        opened_at=now,
        last_event_at=last_event_at,
    )
    tell(incident, f"{rule.sentence} {finding.detail}".strip(), ACTOR, now)
    payload = incident_payload(incident) | {"severity": str(terms.severity)}
    record_event("incident.opened", actor=ACTOR, payload=payload, now=now)
    return incident


def add_responses(incident: Incident, terms: Terms) -> None:
    """Make the policy's responses to an incident due, inside the transaction that opens it."""
    rows = [
        Response(incident=incident, action=action, target=target)
        for action in terms.responses
        for target in _targets(incident, action)
    ]
    Response.objects.bulk_create(rows)


def _targets(incident: Incident, action: Action) -> list[str]:
    if action == Action.NOTIFY:
        return [""]
    if action == Action.PAUSE_FEDERATION:
        return _federations_of(incident)
    return [incident.subject_name] if incident.subject_kind == SubjectKind.DEVICE else []


def _federations_of(incident: Incident) -> list[str]:
    if incident.subject_kind == SubjectKind.FEDERATION:
        return [incident.subject_name]
    payloads = incident.sightings.values_list("event__payload", flat=True)
    return sorted({payload["federation"] for payload in payloads if "federation" in payload})


def acknowledge(incident_id: uuid.UUID, *, actor: str, now: datetime) -> Incident:
    """Say that somebody looks into an open incident. Raises `Refusal`: "not-found", "conflict"."""
    with transaction.atomic():
        incident = _locked(incident_id, {IncidentState.OPEN})
        incident.state = IncidentState.ACKNOWLEDGED
        incident.assignee = incident.assignee or actor
        incident.save(update_fields=("state", "assignee"))
        tell(incident, "Acknowledged.", actor, now)
        record_event("incident.acknowledged", actor=actor, payload=incident_payload(incident), now=now)
    return incident


def assign(incident_id: uuid.UUID, assignee: str, *, actor: str, now: datetime) -> Incident:
    """Give an incident to somebody. Raises `Refusal`: "not-found", "conflict" where it is closed."""
    with transaction.atomic():
        incident = _locked(incident_id, {IncidentState.OPEN, IncidentState.ACKNOWLEDGED})
        incident.assignee = assignee
        incident.save(update_fields=("assignee",))
        tell(incident, f"Assigned to {assignee}.", actor, now)
        payload = incident_payload(incident) | {"assignee": assignee}
        record_event("incident.assigned", actor=actor, payload=payload, now=now)
    return incident


def add_note(incident_id: uuid.UUID, note: str, *, actor: str, now: datetime) -> Incident:
    """Write a note into an incident's timeline. Raises `Refusal`: "not-found", "conflict" without a note."""
    with transaction.atomic():
        incident = _locked(incident_id, set(IncidentState))
        tell(incident, _said(note), actor, now)
        payload = incident_payload(incident) | {"note": note.strip()}
        record_event("incident.noted", actor=actor, payload=payload, now=now)
    return incident


def close_incident(incident_id: uuid.UUID, *, note: str, actor: str, now: datetime) -> Incident:
    """Close an incident with a note. Raises `Refusal`: "not-found", "conflict" without a note or when it is closed."""
    with transaction.atomic():
        incident = _locked(incident_id, {IncidentState.OPEN, IncidentState.ACKNOWLEDGED})
        incident.state, incident.closed_at, incident.closing_note = IncidentState.CLOSED, now, _said(note)
        incident.save(update_fields=("state", "closed_at", "closing_note"))
        tell(incident, f"Closed: {incident.closing_note}", actor, now)
        payload = incident_payload(incident) | {"note": incident.closing_note}
        record_event("incident.closed", actor=actor, payload=payload, now=now)
    return incident


def incident_payload(incident: Incident) -> dict[str, Any]:
    """Return what every event about an incident says of it."""
    return {"incident_id": str(incident.id), "rule": incident.rule, "subject": str(incident.subject)}


def _locked(incident_id: uuid.UUID, states: set[IncidentState]) -> Incident:
    incident = Incident.objects.select_for_update(no_key=True).filter(id=incident_id).first()
    if incident is None:
        raise Refusal("not-found", "There is no such incident.")
    if incident.state not in states:
        raise Refusal("conflict", f"The incident is {incident.state}.")
    return incident


def _said(note: str) -> str:
    if not note.strip():
        raise Refusal("conflict", "Write a note; it is kept in the audit log.")
    return note.strip()


def tell(incident: Incident, text: str, actor: str, now: datetime) -> None:
    """Write a step into an incident's timeline, inside the caller's transaction."""
    TimelineEntry.objects.create(incident=incident, at=now, actor=actor, text=text)
