"""What a plot is made of: places in an SVG of fixed size, which the template draws and the style sheet colours.

Nothing is told by colour alone: each series has a marker and a pattern besides, and each mark says what it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qflare_site.console.plots.scales import Scale, Tick

WIDTH, HEIGHT = 480, 220
TOP, RIGHT, BOTTOM = 12, 22, 30
MARKER = 4.0
DENSE_MARKER = 2.2
DENSE_FROM = 48
"""So many points of one series have smaller markers."""
LABEL_UNITS = 8
"""Room for one character where labels are largest, in a narrow column."""
LONGEST_LABEL = 14


@dataclass(frozen=True)
class Style:
    """How a series looks: a colour of the style sheet, the shape of its markers, the pattern of its areas."""

    colour: str
    shape: str
    pattern: str = ""


SERIES = (
    Style("series-1", "circle"),
    Style("series-2", "square", "rising"),
    Style("series-3", "triangle", "dots"),
    Style("series-4", "diamond", "falling"),
    Style("series-5", "cross", "level"),
    Style("series-6", "bar", "grid"),
)
TONES = {
    "success": Style("success", "circle"),
    "danger": Style("danger", "cross", "rising"),
    "warning": Style("warning", "triangle", "falling"),
    "info": Style("info", "square", "dots"),
    "neutral": Style("neutral", "diamond", "level"),
}


@dataclass(frozen=True)
class Point:
    """One value of a series; None is a gap. `title` is what it says in words, `href` the page of its row."""

    x: float
    y: float | None
    title: str
    href: str = ""


@dataclass(frozen=True)
class Series:
    """Values under one name and in one style."""

    name: str
    style: Style
    points: tuple[Point, ...]

    def known(self) -> list[float]:
        """Return the values that there are."""
        return [point.y for point in self.points if point.y is not None]


@dataclass(frozen=True)
class Mark:
    """One shape: the `d` of its path, its classes, the pattern laid over it, what it says and where it leads."""

    path: str
    classes: str
    pattern: str = ""
    title: str = ""
    href: str = ""


@dataclass(frozen=True)
class Label:
    """Words at a place; a `title` where they are cut short, a `href` where they lead to a row."""

    x: float
    y: float
    words: str
    anchor: str = "middle"
    title: str = ""
    href: str = ""


@dataclass(frozen=True)
class LegendItem:
    """The name of a series beside a sample of it; `area` shows its pattern, otherwise its marker is shown."""

    name: str
    style: Style
    area: bool

    @property
    def path(self) -> str:
        """The sample, in a square of 14 units."""
        return rectangle(1, 1, 12, 12) if self.area else marker(self.style.shape, 7, 7, 5)


@dataclass(frozen=True)
class Frame:
    """The rectangle that the values lie in."""

    left: float
    top: float
    right: float
    bottom: float

    def x(self, scale: Scale, value: float) -> float:
        """Return the place of a value on the horizontal axis."""
        return round(self.left + scale.place(value) * (self.right - self.left), 1)

    def y(self, scale: Scale, value: float) -> float:
        """Return the place of a value on the vertical axis, which goes upwards."""
        return round(self.bottom - scale.place(value) * (self.bottom - self.top), 1)


@dataclass(frozen=True)
class Drawing:
    """A plot, laid out. `rules` and `columns` are the places of the lines of the grid."""

    frame: Frame
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    legend: tuple[LegendItem, ...] = ()
    rules: tuple[float, ...] = ()
    columns: tuple[float, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def role(self) -> str:
        """What it is to assistive technology: a picture, or a group where something in it leads elsewhere."""
        leads = any(mark.href for mark in self.marks) or any(label.href for label in self.labels)
        return "group" if leads else "img"

    @property
    def patterns(self) -> list[str]:
        """The patterns that the drawing uses, each once."""
        used = {mark.pattern for mark in self.marks} | {item.style.pattern for item in self.legend if item.area}
        return sorted(used - {""})


def frame_for(ticks: Iterable[Tick], height: int = HEIGHT) -> Frame:
    """Return a frame that leaves room for the labels of the vertical axis."""
    longest = max((len(tick.label) for tick in ticks), default=0)
    return Frame(10 + LABEL_UNITS * min(longest, LONGEST_LABEL), TOP, WIDTH - RIGHT, height - BOTTOM)


def axis_labels(frame: Frame, x: Scale, y: Scale) -> tuple[Label, ...]:
    """Return the words at the ticks of both axes."""
    beneath = (Label(frame.x(x, tick.value), frame.bottom + 18, tick.label) for tick in x.ticks)
    beside = (Label(frame.left - 6, frame.y(y, tick.value) + 4, tick.label, "end") for tick in y.ticks)
    return (*beneath, *beside)


def rule_places(frame: Frame, y: Scale) -> tuple[float, ...]:
    """Return the heights of the horizontal lines of the grid."""
    return tuple(frame.y(y, tick.value) for tick in y.ticks)


def legend_of(series: Sequence[Series], *, area: bool = False) -> tuple[LegendItem, ...]:
    """Return a legend; one series needs none, its name is the figure's."""
    return tuple(LegendItem(one.name, one.style, area) for one in series) if len(series) > 1 else ()


def rectangle(x: float, y: float, width: float, height: float) -> str:
    """Return the path of a rectangle."""
    return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z"


def marker(shape: str, x: float, y: float, r: float) -> str:
    """Return the path of a marker: circle, square, triangle, diamond, cross or bar, of half-width `r`."""
    if shape == "circle":
        return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0z"
    if shape == "square":
        return rectangle(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r)
    if shape == "bar":
        return rectangle(x - 0.45 * r, y - 1.2 * r, 0.9 * r, 2.4 * r)
    return _polygon(_CORNERS[shape], x, y, r)


_CORNERS = {
    "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "cross": (
        (-1.2, -0.7), (-0.7, -1.2), (0, -0.5), (0.7, -1.2), (1.2, -0.7), (0.5, 0),
        (1.2, 0.7), (0.7, 1.2), (0, 0.5), (-0.7, 1.2), (-1.2, 0.7), (-0.5, 0),
    ),
}  # fmt: skip


def _polygon(corners: Sequence[tuple[float, float]], x: float, y: float, r: float) -> str:
    places = " ".join(f"{x + dx * r:.1f} {y + dy * r:.1f}" for dx, dy in corners)
    return f"M{places}z"
