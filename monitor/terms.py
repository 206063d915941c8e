"""The words of the monitor: what an incident is about, how bad it is, what answers there are, a rule's terms."""

from dataclasses import dataclass
from datetime import timedelta

from django.db import models

ACTOR = "monitor"
"""How the log names the monitor. What it does itself is no sign of an attack: no rule looks at it."""


class Severity(models.TextChoices):
    """How soon somebody has to look."""

    INFO = "info", "Info"
    WARNING = "warning", "Warning"
    CRITICAL = "critical", "Critical"

    def reaches(self, least: "Severity") -> bool:
        """Say whether this severity is at least another one."""
        order = list(Severity)
        return order.index(self) >= order.index(least)


class SubjectKind(models.TextChoices):
    """What kind of thing an incident is about."""

    DEVICE = "device", "Device"
    TOKEN = "token", "Enrolment token"
    STRANGERS = "strangers", "Strangers"
    FEDERATION = "federation", "Federation"
    LOG = "log", "Log"


class Action(models.TextChoices):
    """The answers that a rule's policy may name."""

    NOTIFY = "notify", "Notify"
    REVOKE_SESSIONS = "revoke-sessions", "End the device's sessions"
    DEMAND_KEYS = "demand-keys", "Demand new keys of the device"
    SUSPEND_DEVICE = "suspend-device", "Suspend the device"
    PAUSE_FEDERATION = "pause-federation", "Pause the federation"


@dataclass(frozen=True)
class Subject:
    """What an incident is about: a kind and a name. All strangers are one subject, for events keep no address."""

    kind: SubjectKind
    name: str

    def __str__(self) -> str:
        return self.name if self.kind in (SubjectKind.STRANGERS, SubjectKind.LOG) else f"{self.kind.label} {self.name}"


STRANGERS = Subject(SubjectKind.STRANGERS, "strangers")
LOG = Subject(SubjectKind.LOG, "the log")


def device(name: str) -> Subject:
    """Return a device as a subject."""
    return Subject(SubjectKind.DEVICE, name)


@dataclass(frozen=True)
class Terms:
    """When a rule opens an incident, how bad that is, and what is done: as defined, or as an operator tuned it."""

    threshold: float
    window: timedelta
    severity: Severity
    responses: tuple[Action, ...] = (Action.NOTIFY,)
    cool_down: timedelta = timedelta(hours=1)
