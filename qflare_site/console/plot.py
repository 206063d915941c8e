"""The accuracy plot: where its points lie in an SVG of fixed size. The template draws, the style sheet colours."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 320, 120
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 24


@dataclass(frozen=True)
class Point:
    """One round: its place in the drawing, and what it stands for."""

    x: float
    y: float
    number: int
    accuracy: float


@dataclass(frozen=True)
class Plot:
    """Accuracy from 0 to 1 over rounds at equal distances."""

    points: tuple[Point, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    middle: float = (TOP + HEIGHT - BOTTOM) / 2
    bottom: int = HEIGHT - BOTTOM

    @property
    def line(self) -> str:
        """The `points` attribute of the polyline."""
        return " ".join(f"{point.x:g},{point.y:g}" for point in self.points)


def accuracy_plot(measured: Sequence[tuple[int, float]]) -> Plot | None:
    """Return the plot of (round number, accuracy from 0 to 1) in the order given, or None without any."""
    if not measured:
        return None
    step = (WIDTH - LEFT - RIGHT) / max(1, len(measured) - 1)
    points = (
        Point(round(LEFT + place * step, 1), _height_of(accuracy), number, accuracy)
        for place, (number, accuracy) in enumerate(measured)
    )
    return Plot(tuple(points))


def _height_of(accuracy: float) -> float:
    clipped = min(max(accuracy, 0.0), 1.0)
    return round(HEIGHT - BOTTOM - clipped * (HEIGHT - TOP - BOTTOM), 1)
