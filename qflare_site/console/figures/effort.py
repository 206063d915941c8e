"""What rounds cost: time by phase, and bytes."""

from uuid import UUID

from django.db.models import Count, Sum

from qflare_site.console.figures.rounds import (
    NO_ROUND,
    ROUND_COLUMN,
    ROUNDS_SHOWN,
    RoundRead,
    last_rounds,
    round_cell,
    round_scale,
)
from qflare_site.console.phases import PHASES
from qflare_site.console.plots.drawing import SERIES, Drawing, Point, Series, Style
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import stacked_bars
from qflare_site.console.plots.scales import number_scale
from qflare_site.console.plots.units import BYTES, SECONDS, Unit
from training.models import Participation, RoundStep, Update

Amounts = dict[UUID, float]


def duration_per_round(federation_id: UUID) -> Figure:
    """Return how long each phase of the last 40 rounds took. Source: `RoundStep.seconds`, of completed rounds."""
    rounds = last_rounds(federation_id)
    seconds: dict[str, Amounts] = {name: {} for name in RoundStep.ORDER}
    steps = RoundStep.objects.filter(round__in=[one.id for one in rounds], name__in=RoundStep.ORDER).order_by()
    for round_id, name, taken in steps.values_list("round_id", "name", "seconds"):
        seconds[name][round_id] = taken
    layers = [_layer(PHASES[name], SERIES[place], rounds, seconds[name], SECONDS) for place, name in enumerate(PHASES)]
    return Figure(
        "durations",
        "Duration by phase",
        f"How long each of the last {ROUNDS_SHOWN} rounds took, phase upon phase.",
        _bars(layers, rounds, SECONDS),
        _table(layers, rounds, SECONDS),
        "No round of this federation has finished a phase yet." if rounds else NO_ROUND,
    )


def bytes_per_round(federation_id: UUID) -> Figure:
    """Return how much each of the last 40 rounds moved.

    Sources: received, `Update.blob_bytes` of the round's updates; sent, `ModelVersion.blob_bytes` of its base version
    times the devices that have fetched it (`Participation.downloaded_at`), each counted once: pieces that were
    fetched again, messages and retries are not in it.
    """
    rounds = last_rounds(federation_id, "base_version__blob_bytes")
    layers = [
        _layer("Updates received", SERIES[0], rounds, _received(rounds), BYTES),
        _layer("Models sent", SERIES[1], rounds, _sent(rounds), BYTES),
    ]
    return Figure(
        "bytes",
        "Bytes per round",
        f"Sealed updates received and encrypted models sent in each of the last {ROUNDS_SHOWN} rounds.",
        _bars(layers, rounds, BYTES),
        _table(layers, rounds, BYTES),
        "No device has fetched a model or handed in an update yet." if rounds else NO_ROUND,
    )


def _received(rounds: list[RoundRead]) -> Amounts:
    updates = Update.objects.filter(participation__round__in=[one.id for one in rounds]).order_by()
    return dict(updates.values_list("participation__round_id").annotate(Sum("blob_bytes")))


def _sent(rounds: list[RoundRead]) -> Amounts:
    fetched = Participation.objects.filter(round__in=[one.id for one in rounds], downloaded_at__isnull=False)
    devices = dict(fetched.order_by().values_list("round_id").annotate(Count("id")))
    return {one.id: float(one.columns["base_version__blob_bytes"] * devices.get(one.id, 0)) for one in rounds}


def _layer(name: str, style: Style, rounds: list[RoundRead], amounts: Amounts, unit: Unit) -> Series:
    points = (
        Point(float(at), amount, f"Round {one.number}: {_words(amount, unit)}, {name.lower()}", one.href)
        for at, one in enumerate(rounds)
        for amount in [amounts.get(one.id)]
    )
    return Series(name, style, tuple(points))


def _bars(layers: list[Series], rounds: list[RoundRead], unit: Unit) -> Drawing | None:
    present = [layer for layer in layers if any(layer.known())]
    totals = [sum(layer.points[at].y or 0.0 for layer in layers) for at in range(len(rounds))]
    return stacked_bars(present, round_scale(rounds), number_scale(totals, unit, from_zero=True)) if present else None


def _table(layers: list[Series], rounds: list[RoundRead], unit: Unit) -> Table:
    rows = (
        (round_cell(one), *(Cell(_words(layer.points[at].y, unit)) for layer in layers))
        for at, one in enumerate(rounds)
    )
    return Table((ROUND_COLUMN, *(Column(layer.name) for layer in layers)), tuple(reversed(list(rows))))


def _words(amount: float | None, unit: Unit) -> str:
    return "–" if amount is None else unit.words(amount)
