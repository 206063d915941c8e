"""What a demo run showed, read from the database, and whether that is a success."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from qflare_site.demo.settings import HONEST_REJECTIONS_ALLOWED, NEEDED_ACCURACY, is_poisoned
from sessions.models import Session
from training.models import Federation, Participation, ParticipationState, Round, RoundState, RoundStep


@dataclass(frozen=True)
class RoundReport:
    """One row of the closing table."""

    number: int
    state: str
    invited: int
    submitted: int
    accepted: int
    rejected: int
    rejections: dict[str, str]
    accuracy: float | None
    seconds: dict[str, float]


def read_rounds(federation: Federation) -> list[RoundReport]:
    """Return a row for every round so far, oldest first."""
    rounds = federation.rounds.select_related("resulting_version").order_by("number")
    return [_read_round(round_) for round_ in rounds]


def _read_round(round_: Round) -> RoundReport:
    parts = list(Participation.objects.filter(round=round_).select_related("device"))
    states = Counter(part.state for part in parts)
    version = round_.resulting_version
    steps = {step.name: round(step.seconds, 2) for step in round_.steps.all()}
    return RoundReport(
        number=round_.number,
        state=round_.state,
        invited=len(parts),
        submitted=round_.submissions,
        accepted=states[ParticipationState.ACCEPTED],
        rejected=states[ParticipationState.REJECTED],
        rejections={part.device.name: part.reason for part in parts if part.state == ParticipationState.REJECTED},
        accuracy=None if version is None else version.metrics.get("accuracy"),
        seconds={name: steps[name] for name in RoundStep.ORDER if name in steps},
    )


@dataclass(frozen=True)
class SessionCount:
    """The sessions that were active, and how many of them had a QKD key in their root."""

    active: int
    with_qkd: int
    qkd_demanded: bool


def count_sessions(*, qkd_demanded: bool) -> SessionCount:
    """Count the sessions of the run."""
    activated = Session.objects.exclude(activated_at=None)
    return SessionCount(activated.count(), activated.filter(qkd=True).count(), qkd_demanded)


@dataclass(frozen=True)
class DemoReport:
    """A whole run; `failures` says what was not shown, in sentences."""

    profile: str
    rounds: list[RoundReport]
    planned_rounds: int
    log_verified: bool
    log_entries: int
    wall_seconds: float
    peak_memory_bytes: int
    sessions: SessionCount

    def failures(self) -> list[str]:
        """Return why the run is not a success; empty for a success."""
        return [
            *self._unfinished(),
            *self._inaccurate(),
            *self._poison_accepted(),
            *self._honest_rejected(),
            *self._without_qkd(),
            *self._log(),
        ]

    def _unfinished(self) -> list[str]:
        completed = sum(row.state == RoundState.COMPLETED for row in self.rounds)
        return (
            [] if completed == self.planned_rounds else [f"Only {completed} of {self.planned_rounds} rounds completed."]
        )

    def _inaccurate(self) -> list[str]:
        accuracy = self.rounds[-1].accuracy if self.rounds else None
        if accuracy is None or accuracy < NEEDED_ACCURACY:
            return [f"The accuracy after the last round is {accuracy}, below {NEEDED_ACCURACY}."]
        return []

    def _poison_accepted(self) -> list[str]:
        parts = Participation.objects.filter(state=ParticipationState.ACCEPTED).select_related("device", "round")
        return [
            f"The poisoned update of {part.device} was accepted in round {part.round.number}."
            for part in parts
            if is_poisoned(part.device.name)
        ]

    def _honest_rejected(self) -> list[str]:
        counts = Counter(name for row in self.rounds for name in row.rejections if not is_poisoned(name))
        return [
            f"The honest {name} was rejected in {count} rounds."
            for name, count in counts.items()
            if count > HONEST_REJECTIONS_ALLOWED
        ]

    def _without_qkd(self) -> list[str]:
        bare = self.sessions.active - self.sessions.with_qkd
        return [f"{bare} sessions had no QKD key."] if self.sessions.qkd_demanded and bare else []

    def _log(self) -> list[str]:
        return [] if self.log_verified else ["The exported log did not verify offline."]

    def to_json(self) -> dict[str, Any]:
        """Return the report with its verdict as JSON values."""
        return asdict(self) | {"passed": not self.failures(), "failures": self.failures()}
