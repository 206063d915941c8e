"""One round: its phases, who took part with which verdict, what the defence did, and the model it made."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, When

from operator_admin.tones import tone_of
from qflare_site.console.figures.scores import norm_by_cosine
from qflare_site.console.phases import PHASES
from qflare_site.console.policy import explained_policy
from qflare_site.console.round_rows import Outcomes, RoundRow, outcomes_of
from training.models import UNFINISHED, Participation, ParticipationState, Round, RoundState, RoundStep
from training.privacy import OUTSIDE_THE_GUARANTEE
from training.services.quarantine import QUARANTINED
from training.verdict_reasons import explained_reason

PARTICIPANTS_SHOWN = 200
_RUNNING = {RoundState.PENDING: "prepare", RoundState.OPEN: "collect", RoundState.AGGREGATING: "aggregate"}
_BY_VERDICT = (
    ParticipationState.REJECTED, ParticipationState.FAILED, ParticipationState.SUBMITTED, ParticipationState.ACCEPTED,
    ParticipationState.DOWNLOADED, ParticipationState.INVITED,
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """One phase of a round: done in so many seconds, running since a time, or still to come."""

    word: str
    state: str
    began_at: datetime | None = None
    seconds: float | None = None

    @property
    def tone(self) -> str:
        """The colour of its state."""
        return tone_of({"done": "completed", "running": "open"}.get(self.state, ""))


def read_progress(round_: Round) -> dict[str, Any]:
    """Return where the round stands; alive until it has ended."""
    round_ = fresh(round_)
    outcomes = outcomes_of([round_.id]).get(round_.id, Outcomes())
    return {
        "row": RoundRow(round_, outcomes),
        "phases": phases_of(round_, list(round_.steps.order_by("started_at"))),
        "live": round_.state in UNFINISHED or _waits_for_evaluation(round_),
    }


def _waits_for_evaluation(round_: Round) -> bool:
    version = round_.resulting_version
    evaluated = version is None or version.evaluated_at is not None or bool(version.evaluation_error)
    return bool(round_.federation.evaluator) and not evaluated


def fresh(round_: Round) -> Round:
    """Return the round as the database has it now, without its roster."""
    return (
        Round.objects.select_related("federation", "base_version", "resulting_version")
        .defer("roster")
        .get(pk=round_.pk)
    )


def phases_of(round_: Round, steps: Sequence[RoundStep]) -> list[Phase]:
    """Return every phase in order: those with a step are done, the one of the round's state runs."""
    done = {step.name: step for step in steps}
    running = _RUNNING.get(RoundState(round_.state))
    found = []
    for name, word in PHASES.items():
        step = done.get(name)
        if name == running:
            found.append(Phase(word, "running", _began(round_, name)))
        elif step:
            found.append(Phase(word, "done", step.started_at, step.seconds))
        else:
            found.append(Phase(word, "to come" if round_.state in UNFINISHED else "not reached"))
    return found


def _began(round_: Round, phase: str) -> datetime | None:
    return {"prepare": round_.created_at, "collect": round_.opened_at, "aggregate": round_.closed_at}[phase]


def read_participants(round_: Round) -> dict[str, Any]:
    """Return the participants, rejected ones first, at most 200; alive until the round has ended."""
    parts = Participation.objects.filter(round=round_).select_related("device", "update")
    worst_first = Case(*(When(state=state, then=place) for place, state in enumerate(_BY_VERDICT)))
    shown = parts.defer("update__manifest", "update__receipt").order_by(worst_first, "device__name")
    rows = list(shown[: PARTICIPANTS_SHOWN + 1])
    state = fresh(round_).state
    return {
        "parts": rows[:PARTICIPANTS_SHOWN],
        "more": len(rows) > PARTICIPANTS_SHOWN,
        "is_open": state == RoundState.OPEN,
        "outside_the_guarantee": OUTSIDE_THE_GUARANTEE if round_.federation.privacy_delta else "",
        "live": state in UNFINISHED,
    }


def read_scatter(round_: Round) -> dict[str, Any]:
    """Return the norm and the cosine of every update, as the enclave saw them, once the round has ended."""
    round_ = fresh(round_)
    live = round_.state in UNFINISHED
    return {"heading": "What the enclave saw", "shown": [] if live else [norm_by_cosine(round_.id)], "live": live}


def read_defence(round_: Round) -> dict[str, Any]:
    """Return what the policy demands, how many attackers it stands, and what was left out and why."""
    round_ = fresh(round_)
    policy = round_.aggregation_policy()
    outcomes = outcomes_of([round_.id]).get(round_.id, Outcomes())
    given = outcomes.returned - outcomes.rejected.get(QUARANTINED, 0)
    reasons = [(reason, explained_reason(reason), count) for reason, count in sorted(outcomes.rejected.items())]
    return {
        "stages": explained_policy(policy),
        "policy": policy,
        "given": given,
        "tolerated": policy.tolerated(given),
        "outcomes": outcomes,
        "reasons": reasons,
        "live": round_.state in UNFINISHED,
    }


def read_result(round_: Round) -> dict[str, Any]:
    """Return the model that the round made; alive until it is there and evaluated."""
    round_ = fresh(round_)
    live = round_.state in UNFINISHED or _waits_for_evaluation(round_)
    return {"version": round_.resulting_version, "round": round_, "live": live}
