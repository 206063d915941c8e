"""What the monitor keeps: tuned rules, what they saw, incidents with their timeline and answers, who is told."""

import uuid
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q

from audit.models import Event
from monitor.rules import RULES, Rule
from monitor.terms import Action, Severity, Subject, SubjectKind, Terms


class RuleSetting(models.Model):
    """The terms of one rule, as an operator tuned them."""

    rule = models.CharField(max_length=40, primary_key=True)
    enabled = models.BooleanField(default=True)
    threshold = models.FloatField()
    window_seconds = models.PositiveIntegerField(help_text="How far apart the findings of one incident may lie.")
    severity = models.CharField(max_length=10, choices=Severity.choices)
    responses = models.JSONField(default=list, help_text="What is done when an incident opens.")
    cool_down_seconds = models.PositiveIntegerField(help_text="After an incident is closed, none opens for so long.")
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=200)

    class Meta:
        ordering = ("rule",)
        constraints = (
            models.CheckConstraint(condition=Q(severity__in=Severity.values), name="rule_severity_known"),
            models.CheckConstraint(condition=Q(threshold__gt=0), name="a_threshold_is_positive"),
            models.CheckConstraint(condition=Q(window_seconds__gt=0), name="a_window_is_positive"),
        )

    def __str__(self) -> str:
        return self.rule

    @property
    def definition(self) -> Rule:
        """The rule itself. Raises `KeyError` for a rule of another release."""
        return RULES[self.rule]

    @property
    def terms(self) -> Terms:
        """The terms as a value."""
        return Terms(
            threshold=self.threshold,
            window=timedelta(seconds=self.window_seconds),
            severity=Severity(self.severity),
            responses=tuple(Action(name) for name in self.responses),
            cool_down=timedelta(seconds=self.cool_down_seconds),
        )


class IncidentState(models.TextChoices):
    """`open > acknowledged > closed`; an open one may be closed at once."""

    OPEN = "open", "Open"
    ACKNOWLEDGED = "acknowledged", "Acknowledged"
    CLOSED = "closed", "Closed"


class IncidentQuerySet(models.QuerySet["Incident"]):
    """Reads that several services share."""

    def unclosed(self, rule: str, subject: Subject) -> "IncidentQuerySet":
        """The incident of a rule and a subject that is not closed: at most one."""
        return self.about(rule, subject).exclude(state=IncidentState.CLOSED)

    def about(self, rule: str, subject: Subject) -> "IncidentQuerySet":
        """Every incident of a rule and a subject."""
        return self.filter(rule=rule, subject_kind=subject.kind, subject_name=subject.name)


class Incident(models.Model):
    """What one rule found about one subject, until an operator closes it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    rule = models.CharField(max_length=40)
    subject_kind = models.CharField(max_length=20, choices=SubjectKind.choices)
    subject_name = models.CharField(max_length=150)
    severity = models.CharField(max_length=10, choices=Severity.choices)
    state = models.CharField(max_length=20, choices=IncidentState.choices, default=IncidentState.OPEN)
    opened_at = models.DateTimeField()
    last_event_at = models.DateTimeField()
    event_count = models.PositiveIntegerField(default=0)
    assignee = models.CharField(max_length=200, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    closing_note = models.CharField(max_length=500, blank=True)

    objects = IncidentQuerySet.as_manager()

    class Meta:
        ordering = ("-opened_at",)
        indexes = (models.Index(fields=("state", "-opened_at")),)
        constraints = (
            models.UniqueConstraint(
                fields=("rule", "subject_kind", "subject_name"),
                condition=~Q(state=IncidentState.CLOSED),
                name="one_unclosed_incident_per_rule_and_subject",
            ),
            models.CheckConstraint(condition=Q(state__in=IncidentState.values), name="incident_state_known"),
            models.CheckConstraint(condition=Q(severity__in=Severity.values), name="incident_severity_known"),
            models.CheckConstraint(condition=Q(subject_kind__in=SubjectKind.values), name="incident_subject_known"),
            models.CheckConstraint(
                condition=(Q(state=IncidentState.CLOSED, closed_at__isnull=False) & ~Q(closing_note=""))
                | (~Q(state=IncidentState.CLOSED) & Q(closed_at=None, closing_note="")),
                name="exactly_a_closed_incident_has_its_note",
            ),
        )

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}"

    @property
    def subject(self) -> Subject:
        """What the incident is about."""
        return Subject(SubjectKind(self.subject_kind), self.subject_name)


class Sighting(models.Model):
    """An event that a rule found something in. It waits for as long as the window, or belongs to an incident."""

    rule = models.CharField(max_length=40)
    subject_kind = models.CharField(max_length=20, choices=SubjectKind.choices)
    subject_name = models.CharField(max_length=150)
    event = models.ForeignKey(Event, on_delete=models.PROTECT, related_name="+")
    occurred_at = models.DateTimeField()
    incident = models.ForeignKey(Incident, null=True, blank=True, on_delete=models.PROTECT, related_name="sightings")

    class Meta:
        ordering = ("-event_id",)
        indexes = (
            models.Index(
                fields=("rule", "subject_kind", "subject_name", "occurred_at"),
                condition=Q(incident=None),
                name="monitor_sighting_waiting",
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("event", "rule", "subject_kind", "subject_name"), name="an_event_is_seen_once_by_a_rule"
            ),
            models.CheckConstraint(condition=Q(subject_kind__in=SubjectKind.values), name="sighting_subject_known"),
        )

    def __str__(self) -> str:
        return f"{self.rule} in event {self.event_id}"


class TimelineEntry(models.Model):
    """One step of an incident's story: what happened, who did it, and why."""

    incident = models.ForeignKey(Incident, on_delete=models.PROTECT, related_name="timeline")
    at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    text = models.CharField(max_length=1000)

    class Meta:
        ordering = ("at", "id")
        verbose_name_plural = "timeline"
        constraints = (models.CheckConstraint(condition=~Q(text=""), name="a_timeline_entry_says_something"),)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S}"


class ResponseState(models.TextChoices):
    """`due > done | failed`, `done > undone`."""

    DUE = "due", "Due"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"
    UNDONE = "undone", "Undone"


class Response(models.Model):
    """One answer to an incident, by policy. It is due in the transaction that opens the incident, done in its own."""

    incident = models.ForeignKey(Incident, on_delete=models.PROTECT, related_name="responses")
    action = models.CharField(max_length=20, choices=Action.choices)
    target = models.CharField(max_length=150, help_text="Name of the device or federation; empty for a notification.")
    state = models.CharField(max_length=10, choices=ResponseState.choices, default=ResponseState.DUE)
    detail = models.CharField(max_length=500, blank=True)
    memory = models.JSONField(default=dict, blank=True, help_text="What undoing it needs to know.")
    carried_out_at = models.DateTimeField(null=True, blank=True)
    undone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("id",), condition=Q(state=ResponseState.DUE), name="monitor_response_due"),)
        constraints = (
            models.UniqueConstraint(fields=("incident", "action", "target"), name="a_response_is_given_once"),
            models.CheckConstraint(condition=Q(action__in=Action.values), name="response_action_known"),
            models.CheckConstraint(
                condition=Q(state=ResponseState.DUE, carried_out_at=None, undone_at=None)
                | Q(state__in=(ResponseState.DONE, ResponseState.FAILED), carried_out_at__isnull=False, undone_at=None)
                | Q(state=ResponseState.UNDONE, carried_out_at__isnull=False, undone_at__isnull=False),
                name="a_response_has_the_times_of_its_state",
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_action_display()} {self.target}".strip()


class ChannelKind(models.TextChoices):
    """How a channel reaches somebody."""

    EMAIL = "email", "E-mail"
    WEBHOOK = "webhook", "Webhook"


class NotificationChannel(models.Model):
    """Somebody who is told of incidents. The address stays out of the log: a webhook's may be a secret."""

    name = models.SlugField(max_length=60, unique=True)
    kind = models.CharField(max_length=10, choices=ChannelKind.choices)
    address = models.CharField(max_length=500)
    wrapped_secret = models.BinaryField(null=True, help_text="What a webhook's messages are signed with.")
    least_severity = models.CharField(max_length=10, choices=Severity.choices, default=Severity.WARNING)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=Q(least_severity__in=Severity.values), name="channel_severity_known"),
            models.CheckConstraint(
                condition=Q(kind=ChannelKind.EMAIL, wrapped_secret=None)
                | Q(kind=ChannelKind.WEBHOOK, wrapped_secret__isnull=False),
                name="exactly_a_webhook_has_a_secret",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def envelope(name: str) -> dict[str, Any]:
        """Return what the wrapped secret is bound to; a name is there before the row and never changes."""
        table = NotificationChannel._meta.db_table
        return {"table": table, "primary_key": name, "column": "wrapped_secret"}


class DeliveryState(models.TextChoices):
    """`waiting > delivered | failed`."""

    WAITING = "waiting", "Waiting"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Failed"


class Delivery(models.Model):
    """One message to one channel. Its id and body stay the same over all attempts, so a receiver knows a repeat."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    channel = models.ForeignKey(NotificationChannel, on_delete=models.PROTECT, related_name="deliveries")
    incident = models.ForeignKey(Incident, on_delete=models.PROTECT, related_name="deliveries")
    body = models.TextField()
    state = models.CharField(max_length=10, choices=DeliveryState.choices, default=DeliveryState.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    last_error = models.CharField(max_length=200, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-next_attempt_at",)
        verbose_name_plural = "deliveries"
        indexes = (
            models.Index(
                fields=("next_attempt_at",), condition=Q(state=DeliveryState.WAITING), name="monitor_delivery_waiting"
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=("channel", "incident"), name="a_channel_is_told_once_of_an_incident"),
            models.CheckConstraint(
                condition=Q(state=DeliveryState.WAITING, finished_at=None)
                | Q(state__in=(DeliveryState.DELIVERED, DeliveryState.FAILED), finished_at__isnull=False),
                name="exactly_a_finished_delivery_has_its_time",
            ),
        )

    def __str__(self) -> str:
        return f"{self.incident} to {self.channel}"


class MonitorPosition(models.Model):
    """The one row that says how far the log has been read, and since when the monitor has watched without a break."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    next_index = models.BigIntegerField(default=0)
    watching_since = models.DateTimeField()
    last_run_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(condition=Q(id=1), name="monitor_one_position"),
            models.CheckConstraint(condition=Q(next_index__gte=0), name="monitor_position_from_0"),
        )

    def __str__(self) -> str:
        return f"read up to entry {self.next_index}"
