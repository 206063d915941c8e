"""A log into which events are written at chosen times, and a monitor that looks at it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from audit.models import Event
from audit.services import record_event, sequence_log
from monitor.models import Incident, RuleSetting
from monitor.services.tuning import make_settings
from monitor.services.watch import watch

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OLGA = "operator:olga"


class Scene:
    """A clock, events at its time, and the monitor's look at them."""

    def __init__(self) -> None:
        self.now = NOON

    def later(self, **passed: float) -> "Scene":
        """Let time pass."""
        self.now += timedelta(**passed)
        return self

    def event(self, kind: str, *, actor: str = "stranger", **payload: Any) -> Event:
        """Have something happen now."""
        with transaction.atomic():
            return record_event(kind, actor=actor, payload=payload, now=self.now)

    def refused(self, reason: str, device: str = "alice", *, times: int = 1, kind: str = "session.refused") -> None:
        """Have a handshake or a request refused."""
        for _ in range(times):
            self.event(kind, device=device, reason=reason)

    def look(self) -> list[Incident]:
        """Sequence the log, have the monitor look, and return the incidents that are not closed, oldest first."""
        sequence_log(self.now)
        watch(now=self.now)
        return list(Incident.objects.exclude(state="closed").order_by("opened_at", "rule"))

    def rules_now(self) -> list[str]:
        """Return the rules of the incidents that are not closed, without looking."""
        return list(Incident.objects.exclude(state="closed").order_by("rule").values_list("rule", flat=True))

    def rules(self) -> list[str]:
        """Look, and return the rules of those incidents."""
        return [incident.rule for incident in self.look()]

    def tuned(self, rule: str, **columns: Any) -> None:
        """Set columns of a rule's setting."""
        make_settings(self.now)
        assert RuleSetting.objects.filter(rule=rule).update(**columns) == 1


@pytest.fixture
def scene(db: None) -> Scene:
    """Return the scene at noon."""
    return Scene()
