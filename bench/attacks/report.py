"""The tables and the plot, made of outcomes; and how they get into a page between their marks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

from bench.attacks.attacks import ATTACKS, BACKDOORS, BY_NAME, NONE

BAR_LEFT, BAR_WIDTH, LINE_HEIGHT, HEAD = 560, 240, 20, 54
PANEL_WIDTH = BAR_WIDTH + 50


@dataclass(frozen=True)
class Result:
    """What one run gave."""

    setting: str
    pipeline: str
    attack: str
    seed: int
    accuracy: float
    backdoor: float


@dataclass(frozen=True)
class Line:
    """One pipeline in one setting: means over the seeds, the worst attack of each family counting for it."""

    pipeline: str
    attack_free: float
    accuracy: dict[str, float]
    backdoor: dict[str, float]

    @property
    def worst_family(self) -> str:
        """The family of attacks that does worst."""
        return min(self.accuracy, key=lambda family: self.accuracy[family])

    @property
    def worst(self) -> float:
        """The accuracy under it."""
        return self.accuracy[self.worst_family]


def families(attacks: Iterable[str]) -> list[str]:
    """Return the families of the named attacks in the order of the tables."""
    named = set(attacks)
    return list(dict.fromkeys(attack.family for attack in ATTACKS if attack.name in named))


def line_of(pipeline: str, results: Sequence[Result]) -> Line:
    """Gather one pipeline's results in one setting."""
    by_attack: dict[str, list[Result]] = {}
    for result in results:
        by_attack.setdefault(result.attack, []).append(result)
    means = {attack: fmean(one.accuracy for one in ran) for attack, ran in by_attack.items()}
    accuracy = {
        family: min(mean for attack, mean in means.items() if BY_NAME[attack].family == family)
        for family in families(by_attack)
    }
    backdoor = {attack: fmean(one.backdoor for one in ran) for attack, ran in by_attack.items() if attack in BACKDOORS}
    return Line(pipeline, means[NONE.name], accuracy, backdoor)


def lines_by_setting(results: Iterable[Result]) -> dict[str, list[Line]]:
    """Return the lines of every setting, pipelines in the order in which they ran."""
    grouped: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.setting, {}).setdefault(result.pipeline, []).append(result)
    return {setting: [line_of(*item) for item in pipelines.items()] for setting, pipelines in grouped.items()}


def table(lines: Sequence[Line]) -> str:
    """Return a Markdown table in percent: attack-free accuracy, that under each family, the worst, the backdoors."""
    columns = list(lines[0].accuracy)
    backdoors = list(lines[0].backdoor)
    head = ["pipeline", "no attack", *columns, "worst", *(f"{name}: success" for name in backdoors)]
    best = max(line.worst for line in lines)
    rows = []
    for line in lines:
        worst = _percent(line.worst)
        rows.append(
            [line.pipeline, _percent(line.attack_free)]
            + [_percent(line.accuracy[column]) for column in columns]
            + [f"**{worst}**" if line.worst == best else worst]
            + [_percent(line.backdoor[name]) for name in backdoors]
        )
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; every column but the first is aligned to the right."""
    ruler = "|---|" + "---:|" * (len(head) - 1)
    first, *others = ("| " + " | ".join(row) + " |" for row in [head, *rows])
    return "\n".join([first, ruler, *others, ""])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def plot(lines: dict[str, list[Line]], marked: str) -> str:
    """Return an SVG: for each pipeline and setting a bar from the worst attack's accuracy to the attack-free one."""
    names = list(dict.fromkeys(line.pipeline for of_setting in lines.values() for line in of_setting))
    width, height = BAR_LEFT + PANEL_WIDTH * len(lines), HEAD + LINE_HEIGHT * len(names) + 10
    parts = [_SVG_HEAD.format(width=width, height=height)]
    for row, name in enumerate(names):
        weight = ' class="marked"' if name == marked else ""
        parts.append(f'<text{weight} x="{BAR_LEFT - 12}" y="{_row_y(row) + 4}" text-anchor="end">{escape(name)}</text>')
    for panel, (setting, of_setting) in enumerate(lines.items()):
        left = BAR_LEFT + panel * PANEL_WIDTH
        parts += _panel(setting, left, height)
        for line in of_setting:
            parts += _bar(line, left, _row_y(names.index(line.pipeline)), marked)
    return "\n".join([*parts, "</svg>", ""])


_SVG_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="13">
<title id="title">Accuracy without an attack and under the worst one</title>
<desc id="desc">One line per aggregation, one panel per setting; the numbers are in the tables of the page.</desc>
<style>
.bar {{ stroke: #8c959f; stroke-width: 3 }} .free {{ fill: #57606a }} .worst {{ fill: #cf222e }} .grid {{ stroke: #d0d7de }}
text {{ fill: #1f2328 }} .small {{ font-size: 11px; fill: #57606a }} .marked {{ font-weight: 700 }}
@media (prefers-color-scheme: dark) {{
.bar {{ stroke: #6e7681 }} .free {{ fill: #9da7b3 }} .worst {{ fill: #ff7b72 }} .grid {{ stroke: #30363d }}
text {{ fill: #e6edf3 }} .small {{ fill: #9da7b3 }}
}}
</style>"""  # noqa: E501 - one element of the drawing per line


def _row_y(row: int) -> int:
    return HEAD + LINE_HEIGHT * row + LINE_HEIGHT // 2


def _panel(setting: str, left: int, height: int) -> list[str]:
    parts = [f'<text class="marked" x="{left}" y="18">{escape(setting)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + share * BAR_WIDTH
        parts.append(f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{HEAD - 6}" y2="{height - 10}"/>')
        parts.append(f'<text class="small" x="{x:g}" y="{HEAD - 12}" text-anchor="middle">{share:.0%}</text>')
    return parts


def _bar(line: Line, left: int, y: int, marked: str) -> list[str]:
    free, worst = (left + BAR_WIDTH * share for share in (line.attack_free, line.worst))
    radius = 5 if line.pipeline == marked else 3.5
    said = f"{line.pipeline}: {line.attack_free:.1%} without an attack, {line.worst:.1%} under {line.worst_family}"
    return [
        f'<line class="bar" x1="{worst:.1f}" x2="{free:.1f}" y1="{y}" y2="{y}"/>',
        f'<circle class="free" cx="{free:.1f}" cy="{y}" r="{radius}"/>',
        f'<circle class="worst" cx="{worst:.1f}" cy="{y}" r="{radius}"><title>{escape(said)}</title></circle>',
    ]


def put_between_marks(page: Path, name: str, text: str) -> None:
    """Replace what stands in a page between `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, found_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} has no marks {begin.strip()} and {end}.")
    page.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
