"""From values to places on an axis, with ticks at round numbers (1, 2 or 5 times a power of ten)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from qflare_site.console.plots.units import PLAIN, Unit

TICKS = 4
LABELS_OF_CATEGORIES = 8
LARGEST = 1e300
"""Beyond it values are drawn at the edge: their difference would be infinite."""
_LEAST_SPAN = 1e-100
_LEAST_RELATIVE_SPAN = 1e-9
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TIME_STEPS = (
    _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR,
    _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 91 * _DAY, 365 * _DAY,
)  # fmt: skip


@dataclass(frozen=True)
class Tick:
    """A value of the axis and what is written there."""

    value: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high`, which lies above it; logarithmic only where both are positive."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1; what lies beyond the axis is at its edge."""
        if math.isnan(value):
            return 0.0
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            # A quotient of the ends would be infinite where they lie 600 decades apart.
            low, high = math.log(self.low), math.log(self.high)
            return min(max((math.log(inside) - low) / (high - low), 0.0), 1.0)
        return (inside - self.low) / (self.high - self.low)


def number_scale(values: Iterable[float], unit: Unit = PLAIN, *, from_zero: bool = False, whole: bool = False) -> Scale:
    """Return a linear scale around the values that begins and ends at a tick; `whole` has no tick between integers."""
    low, high = _span(values, from_zero)
    factor, _ = unit.size_for(max(abs(low), abs(high)))
    step = nice_step((high - low) / factor / TICKS) * factor
    if whole:
        step = max(step, 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    marks = [index * step for index in range(first, max(last, first + 1) + 1)]
    return Scale(marks[0], marks[-1], _named(marks, step, unit))


def fixed_scale(low: float, high: float, step: float, unit: Unit = PLAIN) -> Scale:
    """Return a linear scale of known ends, such as a fraction's, with a tick at each step."""
    marks = [low + index * step for index in range(round((high - low) / step) + 1)]
    return Scale(low, high, _named(marks, step, unit))


def log_scale(values: Iterable[float], unit: Unit = PLAIN) -> Scale:
    """Return a scale from one power of ten to another around positive values; others lie at its lower edge."""
    positive = [min(value, LARGEST) for value in values if value > _LEAST_SPAN and not math.isnan(value)] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    last = max(last, first + 1)
    every = math.ceil((last - first) / TICKS)
    ticks = [Tick(10.0**power, unit.words(10.0**power)) for power in range(first, last + 1, every)]
    return Scale(10.0**first, 10.0**last, tuple(ticks), logarithmic=True)


def spans_decades(values: Iterable[float], ratio: float = 50.0) -> bool:
    """Whether positive values lie so far apart that a linear axis would press most of them into its edge."""
    known = list(values)
    return bool(known) and min(known) > _LEAST_SPAN and max(known) / ratio > min(known)


def time_scale(start: datetime, end: datetime) -> Scale:
    """Return a scale of UTC, in POSIX seconds; ticks are whole minutes, hours or days. `end` lies after `start`."""
    low, high = start.timestamp(), max(end.timestamp(), start.timestamp() + _MINUTE)
    years = math.ceil((high - low) / _TIME_STEPS[-1] / TICKS) * _TIME_STEPS[-1]
    step = next((step for step in _TIME_STEPS if (high - low) / step <= TICKS + 2), years)
    marks = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    words = "%H:%M" if step < _DAY else "%d %b" if step < 365 * _DAY else "%Y"
    return Scale(low, high, tuple(Tick(mark, f"{_moment(mark):{words}}") for mark in marks))


def category_scale(names: Sequence[str]) -> Scale:
    """Return a scale on which the categories lie at 0, 1, 2 and so on; not more are named than there is room for."""
    every = max(1, math.ceil(len(names) / LABELS_OF_CATEGORIES))
    # The newest is the last: counted from there it always has its name.
    named = [place for place in range(len(names)) if (len(names) - 1 - place) % every == 0]
    return Scale(-0.5, max(len(names), 1) - 0.5, tuple(Tick(float(place), names[place]) for place in named))


def nice_step(rough: float) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that is not below a positive number."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((times * power for times in (1, 2, 5) if times * power >= rough), 10 * power)


def _named(marks: Sequence[float], step: float, unit: Unit) -> tuple[Tick, ...]:
    """Return ticks whose labels have as many decimals as their distance asks for."""
    largest = max(abs(marks[0]), abs(marks[-1]))
    decimals = unit.decimals(step, largest)
    return tuple(Tick(mark, unit.words(mark, largest, decimals)) for mark in marks)


def _span(values: Iterable[float], from_zero: bool) -> tuple[float, float]:
    """Return least and greatest value with some room where they are (nearly) equal."""
    known = [min(max(value, -LARGEST), LARGEST) for value in values if not math.isnan(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    magnitude = max(abs(low), abs(high))
    if high - low > max(_LEAST_SPAN, _LEAST_RELATIVE_SPAN * magnitude):
        return low, high
    room = magnitude / 2 if magnitude > _LEAST_SPAN else 1.0
    return (low, low + room) if from_zero and low == 0 else (low - room, high + room)


def _moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
