"""What a rule is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from audit.models import Event
from monitor.terms import Action, Subject, Terms

ON_THE_DEVICE = (Action.REVOKE_SESSIONS, Action.DEMAND_KEYS, Action.SUSPEND_DEVICE)


@dataclass(frozen=True)
class Finding:
    """Something a rule found: about whom, and what there is to say beyond the event."""

    subject: Subject
    detail: str = ""


@dataclass(frozen=True)
class Rule:
    """One registered rule. It either looks at events as they enter the log, or examines how things stand.

    - sentence: what it says.
    - threshold_means: what its threshold counts or measures.
    - defaults: its terms until an operator tunes them.
    - possible_responses: what its policy may name beside notifying. A rule whose events anybody on the
      network can bring about acts on nobody: whoever sent bad signatures in a device's name would
      have it suspended.
    - kinds, findings: the events it looks at, and what it finds in one.
    - examine: what it finds in how things stand, given its terms, since when the monitor has watched, and now.
    - counts: whether the threshold counts findings within the window. Otherwise each finding opens an
      incident, because the rule has measured against its threshold itself.
    """

    name: str
    sentence: str
    threshold_means: str
    defaults: Terms
    possible_responses: tuple[Action, ...] = ()
    kinds: frozenset[str] = frozenset()
    findings: Callable[[Event, Terms], Iterable[Finding]] | None = None
    examine: Callable[[Terms, datetime, datetime], Iterable[Finding]] | None = None
    counts: bool = True

    @property
    def responses(self) -> tuple[Action, ...]:
        """Every response that its policy may name."""
        return (Action.NOTIFY, *self.possible_responses)
