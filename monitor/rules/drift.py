"""Whether a device's updates drift away from those of the others, round by round, without being rejected."""

import math
import statistics
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from audit.models import Event
from monitor.rules.definition import ON_THE_DEVICE, Finding, Rule
from monitor.terms import Action, Severity, Terms, device
from training.models import Participation, RoundState

RECENT = 4
"""The device's last scores, whose mean is compared."""
LEAST_EARLIER = 8
"""Scores before those, without which there is nothing to compare with."""
MOST_ROUNDS = 40
LEAST_SPREAD = {"cosine": 0.02, "norm": 0.05}
"""Below these a spread is luck: with eight rounds the median deviation of quiet scores may be next to nothing."""
MAD_TO_SIGMA = 1.4826

Scores = Mapping[uuid.UUID, Sequence[float]]


def drift(scores: Sequence[float], least_spread: float) -> float | None:
    """Return by how many standard errors the mean of the last four scores lies above the median of those before.

    With m earlier scores x and the last four y the statistic is

        z = (mean(y) - median(x)) / (s * sqrt(1/4 + pi/(2 m))),    s = max(1.4826 * MAD(x), least_spread)

    where MAD is the median absolute deviation from the median, s its estimate of the standard deviation
    and pi/(2 m) the variance of a median of m normal scores. Median and MAD, because a device that was
    rejected once must not hide what it does next behind its own outlier. None with fewer than eight
    earlier scores.
    """
    earlier, recent = scores[:-RECENT], scores[-RECENT:]
    if len(earlier) < LEAST_EARLIER:
        return None
    middle = statistics.median(earlier)
    spread = max(MAD_TO_SIGMA * statistics.median(abs(score - middle) for score in earlier), least_spread)
    return (statistics.fmean(recent) - middle) / (spread * math.sqrt(1 / RECENT + math.pi / (2 * len(earlier))))


def drifts_of(parts: Iterable[tuple[int, uuid.UUID, Mapping[str, Any]]]) -> dict[uuid.UUID, dict[str, float]]:
    """Return the drifts of every device of the last round, given (round number, device, scores) in any order.

    Two scores are looked at, each less the median of its round, so that a training that converges moves
    nobody: how far the cosine to the consensus fell, and how far the logarithm of the norm ratio moved
    either way. A score that a round did not measure (no directions, differential privacy) is left out.
    """
    rounds: dict[int, dict[uuid.UUID, Mapping[str, Any]]] = defaultdict(dict)
    for number, device_id, scores in parts:
        rounds[number][device_id] = scores
    if not rounds:
        return {}
    cosines = _relative(rounds, lambda scores: scores.get("cosine"))
    norms = _relative(rounds, lambda scores: math.log(scores["norm_ratio"]) if scores.get("norm_ratio") else None)
    found: dict[uuid.UUID, dict[str, float]] = {}
    for device_id in rounds[max(rounds)]:
        fall = drift([-value for value in cosines.get(device_id, ())], LEAST_SPREAD["cosine"])
        change = drift(norms.get(device_id, ()), LEAST_SPREAD["norm"])
        measured = {"cosine": fall, "norm": None if change is None else abs(change)}
        found[device_id] = {name: value for name, value in measured.items() if value is not None}
    return found


def _relative(rounds: Mapping[int, Mapping[uuid.UUID, Mapping[str, Any]]], read: Any) -> Scores:
    relative: dict[uuid.UUID, list[float]] = defaultdict(list)
    for number in sorted(rounds):
        values = {device_id: read(scores) for device_id, scores in rounds[number].items()}
        known = {device_id: value for device_id, value in values.items() if value is not None}
        middle = statistics.median(known.values()) if known else 0.0
        for device_id, value in known.items():
            relative[device_id].append(value - middle)
    return relative


def drifting_devices(event: Event, terms: Terms) -> Iterable[Finding]:
    """Find the devices of a completed round whose drift has reached the threshold."""
    rows = Participation.objects.filter(
        round__federation__name=event.payload["federation"],
        round__state=RoundState.COMPLETED,
        round__number__lte=event.payload["round_number"],
        round__number__gt=event.payload["round_number"] - MOST_ROUNDS,
        round__finished_at__gt=event.occurred_at - terms.window,
    ).exclude(scores={})
    parts = list(rows.order_by().values_list("round__number", "device_id", "device__name", "scores"))
    names = {device_id: name for _, device_id, name, _ in parts}
    for device_id, drifts in drifts_of((number, device_id, scores) for number, device_id, _, scores in parts).items():
        reached = {name: value for name, value in drifts.items() if value >= terms.threshold}
        if reached:
            measured = ", ".join(f"{name} by {value:.1f} standard errors" for name, value in reached.items())
            yield Finding(device(names[device_id]), f"Over its last {RECENT} rounds its scores moved: {measured}.")


DRIFT_RULE = Rule(
    "score-drift",
    "The updates of a device drift away from its own earlier ones, in direction or in length.",
    "standard errors between the last four rounds and those before",
    Terms(8, timedelta(days=90), Severity.WARNING, cool_down=timedelta(days=1)),
    possible_responses=(*ON_THE_DEVICE, Action.PAUSE_FEDERATION),
    kinds=frozenset({"round.completed"}),
    findings=drifting_devices,
    counts=False,
)
