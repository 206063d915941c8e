"""Rounds as rows: what the overview and a federation's screen say of each, read in a fixed number of queries."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, QuerySet

from qflare_site.console.sentences import round_sentence
from training.models import UNFINISHED, Participation, ParticipationState, Round, RoundState

RETURNED = (ParticipationState.SUBMITTED, ParticipationState.ACCEPTED, ParticipationState.REJECTED)


@dataclass(frozen=True)
class Outcomes:
    """How many devices of a round are in each state, and how many updates were rejected for each reason."""

    by_state: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)

    @property
    def invited(self) -> int:
        """Devices that were asked."""
        return sum(self.by_state.values())

    @property
    def returned(self) -> int:
        """Devices that handed in an update."""
        return sum(self.by_state.get(state, 0) for state in RETURNED)

    @property
    def accepted(self) -> int:
        """Updates that went into the model."""
        return self.by_state.get(ParticipationState.ACCEPTED, 0)

    @property
    def failed(self) -> int:
        """Devices whose training failed."""
        return self.by_state.get(ParticipationState.FAILED, 0)


@dataclass(frozen=True)
class RoundRow:
    """One round with its outcomes."""

    round: Round
    outcomes: Outcomes

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.round.state in UNFINISHED

    @property
    def accuracy(self) -> float | None:
        """The held-out accuracy of its model, where the evaluator gives one."""
        metrics: dict[str, Any] = self.round.resulting_version.metrics if self.round.resulting_version else {}
        return metrics.get("accuracy")

    @property
    def deadline_at(self) -> datetime | None:
        """Until when it waits for updates, while it does."""
        return self.round.deadline_at if self.round.state == RoundState.OPEN else None

    @property
    def when(self) -> datetime:
        """When it ended, or began if it runs."""
        return self.round.finished_at or self.round.created_at

    @property
    def sentence(self) -> str:
        """What became of it."""
        return round_sentence(
            self.round.number,
            self.round.state,
            invited=self.outcomes.invited,
            returned=self.outcomes.returned,
            rejected=self.outcomes.rejected,
            end_reason=self.round.end_reason,
        )


def round_rows(rounds: QuerySet[Round]) -> list[RoundRow]:
    """Return rows of `rounds` in their order, without the large columns: two queries."""
    shown = (
        "federation_id", "number", "state", "submissions", "target_updates", "minimum_updates", "created_at",
        "deadline_at", "finished_at", "end_reason", "resulting_version__metrics", "resulting_version__number",
    )  # fmt: skip
    read = list(rounds.select_related("resulting_version").only(*shown))
    outcomes = outcomes_of(one.id for one in read)
    return [RoundRow(one, outcomes.get(one.id, Outcomes())) for one in read]


def outcomes_of(round_ids: Iterable[UUID]) -> dict[UUID, Outcomes]:
    """Return the outcomes of each of the rounds that have participations, in one query."""
    states: dict[UUID, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    rejected: dict[UUID, dict[str, int]] = defaultdict(dict)
    parts = Participation.objects.filter(round__in=list(round_ids)).order_by()
    for round_id, state, reason, count in parts.values_list("round_id", "state", "reason").annotate(Count("id")):
        states[round_id][state] += count
        if state == ParticipationState.REJECTED:
            rejected[round_id][reason] = count
    return {round_id: Outcomes(dict(found), dict(rejected[round_id])) for round_id, found in states.items()}
