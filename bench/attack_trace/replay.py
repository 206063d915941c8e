"""Replaying: the clean day first, then each attack with clean traffic around it."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from audit.models import Event
from bench.attack_trace.attacks import ATTACKS
from bench.attack_trace.fleet import STEP, Fleet
from monitor.models import Incident
from monitor.rules import RULES


@dataclass
class Report:
    """What opened on the clean day, and during each attack."""

    hours: int
    clean_events: int
    clean: Counter[str]
    attacks: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing opened on the clean day, and each attack opened one incident of its rule and no other."""
        return not self.clean and self.attacks == {rule: Counter({rule: 1}) for rule in RULES}

    def table(self) -> str:
        """Return the table."""
        head = f"clean day: {self.hours} h, {self.clean_events} events, {self.clean.total()} incidents"
        lines = [
            f"{head} {dict(self.clean) or ''}".rstrip(),
            "",
            f"{'rule':<20}{'expected':>9}{'incidents':>11}  others",
        ]
        for rule in RULES:
            opened = self.attacks.get(rule, Counter())
            others = ", ".join(f"{name} {count}" for name, count in opened.items() if name != rule)
            lines.append(f"{rule:<20}{1:>9}{opened[rule]:>11}  {others}".rstrip())
        return "\n".join([*lines, "", "passed" if self.passed else "FAILED"])


def replay(*, hours: int = 24, devices: int = 8) -> Report:
    """Replay on the database that Django is set up with, which has to be empty."""
    fleet = Fleet.of(devices)
    fleet.run(timedelta(hours=hours))
    report = Report(hours, Event.objects.count(), _opened())
    for rule, attack in ATTACKS.items():
        before = _opened()
        attack(fleet)
        fleet.run(2 * STEP)
        report.attacks[rule] = _opened() - before
    return report


def _opened() -> Counter[str]:
    return Counter(Incident.objects.values_list("rule", flat=True))
