"""The forms: lines, points, stacked bars, strips of cells. The marks of each drawing lie inside its frame."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from qflare_site.console.plots.drawing import (
    BOTTOM,
    DENSE_FROM,
    DENSE_MARKER,
    LABEL_UNITS,
    LONGEST_LABEL,
    MARKER,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    Frame,
    Label,
    LegendItem,
    Mark,
    Point,
    Series,
    Style,
    axis_labels,
    frame_for,
    legend_of,
    marker,
    rectangle,
    rule_places,
)
from qflare_site.console.plots.scales import Scale, category_scale

BAR_SHARE = 0.72
WIDEST_BAR = 44
ROW_UNITS = 17
WIDEST_CELL = 30


def line_plot(series: Sequence[Series], x: Scale, y: Scale) -> Drawing:
    """Draw each series as a line that is broken where a value is missing, with a marker at each value."""
    frame = frame_for(y.ticks)
    lines = [mark for one in series for mark in _lines(frame, one, x, y)]
    markers = [mark for one in series for mark in _markers(frame, one, x, y)]
    return _in_axes(frame, x, y, (*lines, *markers), legend_of(series))


def scatter_plot(series: Sequence[Series], x: Scale, y: Scale, *, names: tuple[str, str]) -> Drawing:
    """Draw each value as a marker; both axes have lines at their ticks, and `names`, which stand inside the frame."""
    frame = frame_for(y.ticks)
    marks = tuple(mark for one in series for mark in _markers(frame, one, x, y))
    columns = tuple(frame.x(x, tick.value) for tick in x.ticks)
    drawing = _in_axes(frame, x, y, marks, legend_of(series), columns)
    across = Label(frame.right - 3, frame.bottom - 5, f"{names[0]} →", "end")
    upwards = Label(frame.left + 4, frame.top + 11, f"↑ {names[1]}", "start")
    return replace(drawing, labels=(*drawing.labels, across, upwards))


def stacked_bars(layers: Sequence[Series], x: Scale, y: Scale) -> Drawing:
    """Draw a bar over each category, made of the layers from below upwards; `y` begins at 0.

    A layer has at most one value for a category; missing and negative ones have no height.
    """
    frame = frame_for(y.ticks)
    slot = (frame.right - frame.left) / (x.high - x.low)
    width = min(slot * BAR_SHARE, WIDEST_BAR)
    marks, heights = [], defaultdict[float, float](float)
    for layer in layers:
        for point in layer.points:
            if point.y is None or point.y <= 0:
                continue
            below, above = heights[point.x], heights[point.x] + point.y
            heights[point.x] = above
            top, height = frame.y(y, above), frame.y(y, below) - frame.y(y, above)
            path = rectangle(frame.x(x, point.x) - width / 2, top, width, height)
            marks.append(Mark(path, f"area {layer.style.colour}", layer.style.pattern, point.title, point.href))
    return _in_axes(frame, x, y, tuple(marks), legend_of(layers, area=True))


@dataclass(frozen=True)
class StripCell:
    """A square of a strip at a row and a column (from 0); `share` from 0 to 1 is its size, which shows the value."""

    row: int
    column: int
    share: float
    style: Style
    title: str
    href: str = ""


def strip(
    rows: Sequence[tuple[str, str]], columns: Sequence[str], cells: Sequence[StripCell], legend: tuple[LegendItem, ...]
) -> Drawing:
    """Draw squares in rows, given as (name, address), and columns; a cell in the style of a cross is drawn as one."""
    height = TOP + ROW_UNITS * max(len(rows), 1) + BOTTOM
    longest = min(max((len(name) for name, _ in rows), default=0), LONGEST_LABEL)
    frame = Frame(14 + LABEL_UNITS * longest, TOP, WIDTH - RIGHT, height - BOTTOM)
    slot = min((frame.right - frame.left) / max(len(columns), 1), WIDEST_CELL)
    narrowed = Frame(frame.left, TOP, round(frame.left + slot * max(len(columns), 1), 1), frame.bottom)
    x = category_scale(columns)
    beside = tuple(_row_label(narrowed, place, name, href) for place, (name, href) in enumerate(rows))
    beneath = tuple(Label(narrowed.x(x, tick.value), frame.bottom + 18, tick.label) for tick in x.ticks)
    marks = tuple(_cell_mark(narrowed, x, cell, min(slot, ROW_UNITS)) for cell in cells)
    rules = tuple(round(TOP + ROW_UNITS * (place + 0.5), 1) for place in range(len(rows)))
    return Drawing(narrowed, marks, (*beside, *beneath), legend, rules, height=height)


def _in_axes(
    frame: Frame,
    x: Scale,
    y: Scale,
    marks: tuple[Mark, ...],
    legend: tuple[LegendItem, ...],
    columns: tuple[float, ...] = (),
) -> Drawing:
    return Drawing(frame, marks, axis_labels(frame, x, y), legend, rule_places(frame, y), columns)


def _lines(frame: Frame, series: Series, x: Scale, y: Scale) -> Iterator[Mark]:
    """Yield a line for each run of values that are there; one value alone has its marker only."""
    for known, run in groupby(series.points, key=lambda point: point.y is not None):
        points = list(run)
        if known and len(points) > 1:
            places = " L".join(f"{frame.x(x, one.x):.1f} {frame.y(y, one.y or 0.0):.1f}" for one in points)
            yield Mark(f"M{places}", f"line {series.style.colour}")


def _markers(frame: Frame, series: Series, x: Scale, y: Scale) -> Iterator[Mark]:
    radius = MARKER if len(series.points) < DENSE_FROM else DENSE_MARKER
    for point in series.points:
        if point.y is not None:
            yield _marker_of(frame, series.style, point, x, frame.y(y, point.y), radius)


def _marker_of(frame: Frame, style: Style, point: Point, x: Scale, height: float, radius: float) -> Mark:
    path = marker(style.shape, frame.x(x, point.x), height, radius)
    return Mark(path, f"marker {style.colour}", "", point.title, point.href)


def _row_label(frame: Frame, place: int, name: str, href: str) -> Label:
    short = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
    return Label(frame.left - 8, TOP + ROW_UNITS * (place + 0.5) + 4, short, "end", name, href)


def _cell_mark(frame: Frame, x: Scale, cell: StripCell, room: float) -> Mark:
    half = max(min(cell.share, 1.0), 0.25) * (room - 3) / 2
    across, down = frame.x(x, cell.column), TOP + ROW_UNITS * (cell.row + 0.5)
    shape = cell.style.shape if cell.style.shape == "cross" else "square"
    return Mark(marker(shape, across, down, half), f"marker {cell.style.colour}", "", cell.title, cell.href)
