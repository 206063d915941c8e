"""How well a federation's model does, round by round."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from qflare_site.console.figures.rounds import (
    NO_ROUND,
    ROUND_COLUMN,
    ROUNDS_SHOWN,
    RoundRead,
    last_rounds,
    round_cell,
    round_scale,
)
from qflare_site.console.plots.drawing import SERIES, Drawing, Point, Series
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import line_plot
from qflare_site.console.plots.scales import Scale, fixed_scale, log_scale, number_scale, spans_decades
from qflare_site.console.plots.units import PERCENT, PLAIN, Unit

_METRICS, _SUMS, _REPORTED = (
    f"resulting_version__{name}" for name in ("metrics", "evaluation_sums", "reported_metrics")
)
Read = Callable[[RoundRead], float | None]


def accuracy_per_round(federation_id: UUID) -> Figure:
    """Return the accuracy of the models of the last 40 rounds.

    Sources: `ModelVersion.metrics["accuracy"]`, measured by the federation's evaluator on data the server holds;
    `ModelVersion.evaluation_sums["accuracy"]`, the mean over the devices that evaluated the version on data they
    hold out, weighted by samples. A round without a model, or a model not measured yet, is a gap.
    """
    return _figure(
        federation_id,
        "accuracy",
        title="Accuracy per round",
        shows=f"Share of samples that each round’s model gets right, over the last {ROUNDS_SHOWN} rounds.",
        second=("On the devices’ own data", _mean_of_devices("accuracy")),
        unit=PERCENT,
        scale=lambda values: fixed_scale(0.0, 1.0, 0.25, PERCENT),
    )


def loss_per_round(federation_id: UUID) -> Figure:
    """Return the loss of the models of the last 40 rounds, on a logarithmic axis where it spans decades.

    Sources: `ModelVersion.metrics["loss"]`, measured by the federation's evaluator;
    `ModelVersion.reported_metrics["loss"]`, the median of what the accepted devices reported of their training.
    """
    return _figure(
        federation_id,
        "loss",
        title="Loss per round",
        shows=f"Loss of each round’s model, and in the devices’ training, over the last {ROUNDS_SHOWN} rounds.",
        second=("In training, median of devices", _metric(_REPORTED, "loss")),
        unit=PLAIN,
        scale=lambda values: log_scale(values) if spans_decades(values) else number_scale(values),
    )


def _figure(
    federation_id: UUID,
    metric: str,
    *,
    title: str,
    shows: str,
    second: tuple[str, Read],
    unit: Unit,
    scale: Callable[[Sequence[float]], Scale],
) -> Figure:
    rounds = last_rounds(federation_id, _METRICS, _SUMS, _REPORTED)
    sources = [("On the server’s held-out data", _metric(_METRICS, metric)), second]
    series = [_series(name, place, read, rounds, unit) for place, (name, read) in enumerate(sources)]
    measured = [one for one in series if one.known()]
    drawing = _drawing(measured, rounds, scale) if measured else None
    rows = tuple((round_cell(one), *(_words(read(one), unit) for _, read in sources)) for one in reversed(rounds))
    columns = (ROUND_COLUMN, *(Column(name) for name, _ in sources))
    unmeasured = f"No model of this federation has a measured {metric} yet. Name an evaluator, or let devices evaluate."
    return Figure(metric, title, shows, drawing, Table(columns, rows), unmeasured if rounds else NO_ROUND)


def _drawing(series: Sequence[Series], rounds: list[RoundRead], scale: Callable[[Sequence[float]], Scale]) -> Drawing:
    return line_plot(series, round_scale(rounds), scale([value for one in series for value in one.known()]))


def _series(name: str, place: int, read: Read, rounds: list[RoundRead], unit: Unit) -> Series:
    points = tuple(
        Point(float(at), value := read(one), f"Round {one.number}: {_words(value, unit).words}, {name}", one.href)
        for at, one in enumerate(rounds)
    )
    return Series(name, SERIES[place], points)


def _metric(column: str, name: str) -> Read:
    return lambda one: number_or_none((one.columns[column] or {}).get(name))


def _mean_of_devices(name: str) -> Read:
    def read(one: RoundRead) -> float | None:
        sums: Mapping[str, Any] = one.columns[_SUMS] or {}
        weighted, samples = sums.get(name, (0.0, 0))
        return weighted / samples if samples else None

    return read


def number_or_none(value: Any) -> float | None:
    """Return a metric as a number, or None: an evaluator may give anything that JSON has."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _words(value: float | None, unit: Unit) -> Cell:
    return Cell("–" if value is None else unit.words(value))
