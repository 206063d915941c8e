"""The measured figures as a Markdown table and as a plot."""

import html
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_TIMES = {"read": 1.3, "gram": 1.3, "order": 12.0}
MOST_EXTRA_BYTES = 64 << 20
COMMAND = "python -m bench.aggregate --output docs/benchmarks/aggregate.md"


@dataclass(frozen=True)
class Measurement:
    """One rule in one setting: seconds of ours and the others', why some were left out, and our extra memory."""

    rule: str
    bound: str
    seconds: float
    others: dict[str, float]
    left_out: dict[str, str]
    extra_bytes: int


@dataclass(frozen=True)
class Setting:
    """One number of updates and parameters, with the seconds of one read and of one Gram product."""

    count: int
    columns: int
    read_seconds: float
    gram_seconds: float
    measurements: list[Measurement]

    def bound_seconds(self, bound: str) -> float:
        """Return the time that a rule is compared with."""
        return self.gram_seconds + self.read_seconds / MOST_TIMES["gram"] if bound == "gram" else self.read_seconds

    def limit_seconds(self, bound: str) -> float:
        """Return the time that a rule may take: 1.3 reads, 1.3 Gram products and a read, or 12 reads."""
        return MOST_TIMES[bound] * self.bound_seconds(bound)


def markdown(settings: Sequence[Setting]) -> str:
    """Return the page."""
    lines = [
        "# Aggregation: ours, byzfl and Flower, and what the machine allows",
        "",
        f"Made by `{COMMAND}` on {platform.machine()}, Python {platform.python_version()},",
        f"NumPy {np.__version__}, one core, BLAS on one thread. Updates are one float32 matrix in memory, f = n / 5;",
        "times are the least of up to three runs in turn, in milliseconds. The limit is 1.3 reads of the matrix for",
        "the mean, 1.3 chunked Gram products and one read for what is decided on the Gram matrix, 12 reads for median",
        "and trimmed mean. Extra memory is what the aggregation allocates besides its input and its outcome.",
        "",
        "![Times by rule, one panel for each setting](aggregate.svg)",
        "",
    ]
    for setting in settings:
        lines += _setting(setting)
    return "\n".join(lines)


def _setting(setting: Setting) -> list[str]:
    names = sorted({who for one in setting.measurements for who in (*one.others, *one.left_out)})
    head = ["rule", "ours", "limit", "", *names, "extra memory"]
    lines = [
        f"## n = {setting.count}, d = {setting.columns:,}",
        "",
        f"One read {setting.read_seconds * 1e3:.1f} ms, one Gram product {setting.gram_seconds * 1e3:.1f} ms.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += ["| " + " | ".join(_row(setting, one, names)) + " |" for one in setting.measurements]
    return [*lines, ""]


def _row(setting: Setting, one: Measurement, names: Sequence[str]) -> list[str]:
    limit, verdict = "", ""
    if one.bound:
        most = setting.limit_seconds(one.bound)
        limit, verdict = f"{most * 1e3:.1f}", "met" if one.seconds <= most else "missed"
    theirs = [_cell(one, name) for name in names]
    extra = one.extra_bytes - 4 * setting.columns
    return [one.rule, f"{one.seconds * 1e3:.1f}", limit, verdict, *theirs, f"{max(0, extra) / 2**20:.0f} MiB"]


def _cell(one: Measurement, name: str) -> str:
    if name in one.others:
        return f"{one.others[name] * 1e3:.1f}"
    return one.left_out.get(name, "")


BAR, GAP, LEFT, WIDTH = 9, 3, 210, 640
COLOURS = ("#2563eb", "#d97706", "#059669")


def plot(settings: Sequence[Setting]) -> str:
    """Return an SVG of all times on one logarithmic axis, one panel for each setting."""
    parts, top = [], 30
    everything = [value for setting in settings for one in setting.measurements for value in _values(one).values()]
    low, high = np.log10(min(everything)), np.log10(max(everything))

    def place(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT) * (np.log10(seconds) - low) / max(high - low, 1e-9)

    for setting in settings:
        parts.append(_text(4, top, f"n = {setting.count}, d = {setting.columns:,}", weight="bold"))
        for one in setting.measurements:
            top += 2 * GAP
            for who, seconds in _values(one).items():
                top += BAR + 1
                colour = COLOURS[0 if who == "ours" else 1 if who.startswith("byzfl") else 2]
                width = max(1.0, place(seconds) - LEFT)
                parts.append(f'<rect x="{LEFT}" y="{top - BAR}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
                label = f"{one.rule}, {who}" if who != "ours" else one.rule
                parts.append(_text(LEFT - 4, top - 1, label, anchor="end"))
                parts.append(_text(LEFT + width + 3, top - 1, f"{seconds * 1e3:.1f} ms"))
        top += 34
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 90}" height="{top}" role="img" '
        f'font-family="sans-serif" font-size="9">\n<title>Aggregation times, logarithmic</title>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _values(one: Measurement) -> dict[str, float]:
    return {"ours": one.seconds, **one.others}


def _text(x: float, y: float, content: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{html.escape(content)}</text>'
