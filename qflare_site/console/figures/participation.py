"""What became of the devices' parts in rounds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from uuid import UUID

from django.db.models import Count

from qflare_site.console.figures.rounds import (
    NO_ROUND,
    ROUND_COLUMN,
    ROUNDS_SHOWN,
    RoundRead,
    last_rounds,
    round_cell,
    round_scale,
)
from qflare_site.console.plots.drawing import SERIES, TONES, Point, Series, Style
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import stacked_bars
from qflare_site.console.plots.scales import number_scale
from qflare_site.console.plots.units import COUNT
from training.models import Participation
from training.models import ParticipationState as State

OUTCOMES: tuple[tuple[State, Style], ...] = (
    (State.ACCEPTED, TONES["success"]),
    (State.REJECTED, TONES["danger"]),
    (State.FAILED, TONES["warning"]),
    (State.SUBMITTED, TONES["info"]),
    (State.DOWNLOADED, SERIES[5]),
    (State.INVITED, TONES["neutral"]),
)


def participation_per_round(federation_id: UUID) -> Figure:
    """Return how many devices of each of the last 40 rounds came how far. Source: `Participation.state`."""
    rounds = last_rounds(federation_id)
    counts = _counts(rounds)
    layers = [_layer(state, style, rounds, counts) for state, style in OUTCOMES]
    present = [layer for layer in layers if any(layer.known())]
    totals = [float(sum(counts[one.id].values())) for one in rounds]
    y = number_scale(totals, COUNT, from_zero=True, whole=True)
    return Figure(
        "participation",
        "Participation by outcome",
        f"Devices invited to each of the last {ROUNDS_SHOWN} rounds, by how far they came.",
        stacked_bars(present, round_scale(rounds), y) if present else None,
        Table(
            (ROUND_COLUMN, *(Column(state.label) for state, _ in OUTCOMES)),
            tuple(
                (round_cell(one), *(Cell(str(counts[one.id].get(state, 0))) for state, _ in OUTCOMES))
                for one in reversed(rounds)
            ),
        ),
        NO_ROUND,
    )


def _counts(rounds: Iterable[RoundRead]) -> Mapping[UUID, Mapping[str, int]]:
    counts: dict[UUID, dict[str, int]] = defaultdict(dict)
    parts = Participation.objects.filter(round__in=[one.id for one in rounds]).order_by()
    for round_id, state, count in parts.values_list("round_id", "state").annotate(Count("id")):
        counts[round_id][state] = count
    return counts


def _layer(state: State, style: Style, rounds: list[RoundRead], counts: Mapping[UUID, Mapping[str, int]]) -> Series:
    heights = [counts[one.id].get(state, 0) for one in rounds]
    points = (
        Point(float(at), float(height), f"Round {one.number}: {height} {state.label.lower()}", one.href)
        for at, (one, height) in enumerate(zip(rounds, heights, strict=True))
    )
    return Series(state.label, style, tuple(points))
