"""The page of figures: what each process held after so many rounds, and how fast it grows in the second half."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import linear_regression

MIB = 1 << 20
ROWS = 11
"""Samples that the page shows; all of them make the slope."""

Figures = Callable[["Sample"], dict[str, int]]
KINDS: dict[str, Figures] = {
    "PSS": lambda sample: sample.pss,
    "RSS": lambda sample: sample.rss,
    "Private (USS)": lambda sample: sample.uss,
}


@dataclass(frozen=True)
class Sample:
    """What the site held after so many rounds: bytes by process, and when, in seconds from the first round."""

    rounds: int
    seconds: float
    pss: dict[str, int]
    rss: dict[str, int]
    uss: dict[str, int]


def slope(samples: Sequence[Sample], name: str, figures: Figures) -> float:
    """Return by how many MiB a process grew in 100 rounds: the line of least squares through the second half."""
    half = [sample for sample in samples if sample.rounds >= samples[-1].rounds / 2]
    if len(half) < 2:
        return 0.0
    line = linear_regression([sample.rounds for sample in half], [figures(sample)[name] / MIB for sample in half])
    return 100 * line.slope


def page(samples: Sequence[Sample], *, devices: int, profile: str) -> str:
    """Return the page in Markdown."""
    last = samples[-1]
    head = HEAD.format(
        rounds=last.rounds, devices=devices, profile=profile, seconds=last.seconds / max(last.rounds, 1),
        python=platform.python_version(), machine=platform.machine(), cores=os.cpu_count(),
    )  # fmt: skip
    tables = [["", *_table(title, samples, figures)] for title, figures in KINDS.items()]
    return "\n".join([head.rstrip(), *chain.from_iterable(tables)]) + "\n"


def _table(title: str, samples: Sequence[Sample], figures: Figures) -> list[str]:
    names = list(figures(samples[0]))
    rows = [f"## {title}, MiB", "", "| after rounds | " + " | ".join(names) + " |", "|---:|" + "---:|" * len(names)]
    for sample in _shown(samples):
        cells = " | ".join(f"{figures(sample)[name] / MIB:.1f}" for name in names)
        rows.append(f"| {sample.rounds} | {cells} |")
    slopes = " | ".join(f"{slope(samples, name, figures):+.1f}" for name in names)
    return [*rows, f"| **per 100 rounds, second half** | {slopes} |"]


def _shown(samples: Sequence[Sample]) -> list[Sample]:
    step = max(1, round((len(samples) - 1) / (ROWS - 1)))
    shown = list(samples[::step])
    return shown if shown[-1] is samples[-1] else [*shown, samples[-1]]


HEAD = """# Memory over many rounds

Made by `python -m bench.memory --rounds {rounds}` on {machine}, Python {python}, {cores} cores: the processes that
`manage.py serve` starts, on the {profile} profile, run {rounds} rounds of one federation one after the other, with
{devices} devices (the real client, a model of 40 kB), {seconds:.1f} s a round. Between rounds the memory of each
process is read from the kernel, with that of its children: web is gunicorn's master and its two workers, worker
Celery's master and its two, the enclave worker has one; sealed processes, which live for one request, are not in it.
PSS counts a page that n processes share as 1/n of it, RSS counts it whole for each; both also move with what else the
machine does, for the kernel takes pages of files back and other programs share them. What is private is nobody else's,
and there a leak has to show. The last row is the slope of the line of least squares through the second half: what a
process keeps of each round. Web has a cache of parsed public keys (256 of 11 kB in each process), which the fresh keys
of renewed sessions fill; by arithmetic it is most of what web gains here.
"""
