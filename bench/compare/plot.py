"""The drawing beside the table: accuracy over the seconds of rounds, one line for each platform."""

import itertools
from collections.abc import Sequence
from html import escape

from bench.compare.task import Figures

LEFT, TOP, WIDTH, HEIGHT = 50, 20, 560, 240
LINES = ("ours", "second", "third")

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="13">
<title id="title">Accuracy over the seconds of rounds</title>
<desc id="desc">One line per platform, one point per round; the numbers are in the table of the page.</desc>
<style>
.line {{ fill: none; stroke-width: 2 }} .grid {{ stroke: #d0d7de }} text {{ fill: #1f2328 }}
.small {{ font-size: 11px; fill: #57606a }} .ours {{ stroke: #0969da }} .second {{ stroke: #bc4c00 }}
.third {{ stroke: #1a7f37 }}
@media (prefers-color-scheme: dark) {{
.grid {{ stroke: #30363d }} text {{ fill: #e6edf3 }} .small {{ fill: #9da7b3 }} .ours {{ stroke: #58a6ff }}
.second {{ stroke: #f0883e }} .third {{ stroke: #56d364 }}
}}
</style>"""  # noqa: E501 - one element of the drawing per line


def plot(runs: Sequence[Figures]) -> str:
    """Return an SVG."""
    longest = max(sum(one.round_seconds) for one in runs)
    lowest = min(0.8, *(accuracy for one in runs for accuracy in one.accuracies))
    parts = [_HEAD.format(width=LEFT + WIDTH + 20, height=TOP + HEIGHT + 45 + 18 * len(runs))]
    parts += [_level(lowest + (1 - lowest) * share, lowest) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts += [_moment(longest * share, longest) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for row, (one, style) in enumerate(zip(runs, LINES, strict=False)):
        parts += _line(one, style, longest, lowest)
        parts += _legend(one, style, TOP + HEIGHT + 45 + 18 * row)
    return "\n".join([*parts, "</svg>", ""])


def _x(seconds: float, longest: float) -> float:
    return LEFT + WIDTH * seconds / longest


def _y(accuracy: float, lowest: float) -> float:
    return TOP + HEIGHT * (1 - accuracy) / (1 - lowest)


def _level(accuracy: float, lowest: float) -> str:
    y = _y(accuracy, lowest)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="small" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{accuracy:.2f}</text>'
    )


def _moment(seconds: float, longest: float) -> str:
    x = _x(seconds, longest)
    return f'<text class="small" x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{seconds:.0f} s</text>'


def _line(one: Figures, style: str, longest: float, lowest: float) -> list[str]:
    ends = itertools.accumulate(one.round_seconds)
    points = [(_x(end, longest), _y(reached, lowest)) for end, reached in zip(ends, one.accuracies, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<polyline class="line {style}" points="{path}"/>']
    return parts + [f'<circle class="line {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]


def _legend(one: Figures, style: str, y: int) -> list[str]:
    said = f"{one.platform}: a warm round takes {one.warm_round_seconds:.2f} s"
    return [
        f'<line class="line {style}" x1="{LEFT}" x2="{LEFT + 24}" y1="{y - 4}" y2="{y - 4}"/>',
        f'<text x="{LEFT + 32}" y="{y}">{escape(said)}</text>',
    ]
