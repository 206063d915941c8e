"""What the log tells of a federation's rounds, event by event: each event has to follow from the ones before."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from audit.models import Event
from training.models import LEASED, UNFINISHED, RoundState

TRANSITIONS = {
    "round.opened": ({RoundState.PENDING}, RoundState.OPEN),
    "round.closed": ({RoundState.OPEN}, RoundState.AGGREGATING),
    "round.completed": ({RoundState.AGGREGATING}, RoundState.COMPLETED),
    "round.failed": (set(UNFINISHED), RoundState.FAILED),
    "round.cancelled": (set(UNFINISHED), RoundState.CANCELLED),
    "round.restarted": (set(LEASED), RoundState.PENDING),
}
"""By kind of event: the states in which it may happen, and the one that it leads to."""

WITHIN = {
    "round.extended": RoundState.OPEN,
    "update.received": RoundState.OPEN,
    "update.failed": RoundState.OPEN,
    "update.quarantined": RoundState.OPEN,
    "update.rejected": RoundState.AGGREGATING,
}
"""By kind of event that is no transition: the state in which it may happen."""


@dataclass
class ToldRound:
    """One round as the log tells it; devices by their names."""

    state: RoundState
    number: int
    invited: int
    received: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    taken_out: dict[str, str] = field(default_factory=dict)
    extensions: int = 0
    restarts: int = 0

    def follow(self, event: Event) -> None:
        """Go on by one event; an assertion fails where it may not happen in this state."""
        if event.kind in TRANSITIONS:
            origins, target = TRANSITIONS[event.kind]
            assert self.state in origins, f"{event.kind} of a round that is {self.state}"
            self.state = target
            if event.kind == "round.restarted":
                self._begin_anew()
            return
        assert self.state == WITHIN[event.kind], f"{event.kind} in a round that is {self.state}"
        self._note(event)

    def _begin_anew(self) -> None:
        """Forget everything but what an operator took out, which is not asked for again."""
        self.restarts += 1
        self.received, self.failed, self.rejected, self.extensions = {}, set(), set(), 0

    def _note(self, event: Event) -> None:
        device = event.payload.get("device", "")
        if event.kind == "round.extended":
            self.extensions += event.actor == "system"  # an operator's are not counted
        elif event.kind == "update.received":
            assert device not in self._counted(), f"{device} is counted twice"
            self.received[device] = event.payload["manifest_digest"]
        elif event.kind == "update.failed":
            assert device not in self._counted(), f"{device} is counted twice"
            self.failed.add(device)
        elif event.kind == "update.quarantined":
            self.taken_out[device] = self.received.pop(device)
        else:
            assert device in self.received, f"the enclave rejects {device}, which handed nothing in"
            self.rejected.add(device)

    def _counted(self) -> set[str]:
        return {*self.received, *self.failed, *self.taken_out}


def rounds_as_told(events: Iterable[Event]) -> dict[str, ToldRound]:
    """Return the rounds that events tell of, in the order in which they were created."""
    told: dict[str, ToldRound] = {}
    for event in events:
        if event.kind == "round.created":
            _refuse_a_second(told, event.payload)
            payload = event.payload
            told[payload["round_id"]] = ToldRound(RoundState.PENDING, payload["round_number"], payload["invited"])
        elif event.kind in TRANSITIONS or event.kind in WITHIN:
            told[event.payload["round_id"]].follow(event)
    return told


def _refuse_a_second(told: dict[str, ToldRound], payload: dict[str, Any]) -> None:
    running = [round_.number for round_ in told.values() if round_.state in UNFINISHED]
    assert not running, f"round {payload['round_number']} is created while round {running} runs"
