"""The page that stands the platforms side by side."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.compare.task import Figures, Task
from bench.fleet.meter import OFTEN_SECONDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "compare.md"
GOAL = 0.9
NAMES = {"qflare": "QFLARE", "flower": "Flower", "nvflare": "NVIDIA FLARE"}

HEAD = """# Side by side with Flower and NVIDIA FLARE

Made by `make bench-compare`, one platform after the other in one run on {cores} cores. {others}QFLARE runs all
processes of the embedded profile with everything on: post-quantum sessions, sealed updates, a sealed process with the
default robust rules, the log, the monitor. Its transport has no TLS here, for its requests are sealed; behind nginx it
would have. A round lasts from its opening to the opening of the next, the last one to its model. Memory is looked at
every {every:g} s, so that what lives for less may be missed. What makes QFLARE's tokens and
federation is in the figures by its processor time, as are the others' commands for that; their memory is in none.
"""
OTHERS = {
    "Flower": "Flower {version} runs its deployment engine with TLS and SuperNode authentication and averages. ",
    "NVIDIA FLARE": "NVIDIA FLARE {version} runs in production mode, provisioned, over mutual TLS, and averages; its "
    "training\ncode runs in the job's process. ",
}
ABSENT = "NVIDIA FLARE is missing: its package could not be installed when the page was made. "
DIGITS = """
## The digits

{devices} devices, {rounds} rounds of the small torch network of `edge_client.examples.digits`, the same shards and
steps.

![Seconds of rounds and accuracy, by platform](compare.svg)
"""
WIDE = """
## Updates of 50 MB

{devices} devices, {rounds} rounds of a model of 12,500,000 float32 whose training is one pass over it
(`bench.compare.wide_model`): what a round costs beside its training. No platform evaluates these models.
"""


def page(runs: Mapping[Task, Mapping[str, Figures | None]], limit_seconds: int) -> str:
    """Return the page in Markdown, of the platforms' runs by their task; a run that did not end is None."""
    versions = {one.platform: one.version for of_task in runs.values() for one in of_task.values() if one}
    others = "".join(OTHERS[name].format(version=version) for name, version in versions.items() if name in OTHERS)
    others += "" if any("nvflare" in of_task for of_task in runs.values()) else ABSENT
    parts = [HEAD.format(cores=os.cpu_count(), others=others, every=OFTEN_SECONDS)]
    for task, of_task in runs.items():
        parts.append((WIDE if task.wide else DIGITS).format(devices=task.devices, rounds=task.rounds))
        parts.append("\n" + _table(task, [one for one in of_task.values() if one]))
        missing = [NAMES[platform] for platform, one in of_task.items() if one is None]
        parts += [
            f"\n{name} is missing here: its run failed, or did not end in {limit_seconds} s.\n" for name in missing
        ]
    return "".join(parts)


def _table(task: Task, runs: Sequence[Figures]) -> str:
    cells: dict[str, Callable[[Figures], str]] = {
        "seconds of the first round": lambda one: f"{one.round_seconds[0]:.1f}",
        "seconds of a warm round": lambda one: f"{one.warm_round_seconds:.2f}",
        **({} if task.wide else ACCURACY),
        "seconds in all, start and enrolment included": lambda one: f"{one.total_seconds:.0f}",
        "processor seconds of all processes": lambda one: f"{one.cpu_seconds:.0f}",
        "most memory of all processes, GiB (PSS)": lambda one: f"{one.peak_bytes / 2**30:.2f}",
        "most memory of one device, MiB (PSS)": lambda one: f"{one.peak_device_bytes / 2**20:.0f}",
        "megabytes on the wire, both ways": lambda one: f"{one.wire_bytes / 1e6:.1f}",
    }
    table = ["| | " + " | ".join(one.platform for one in runs) + " |", "|---|" + "---:|" * len(runs)]
    table += [f"| {name} | " + " | ".join(cell(one) for one in runs) + " |" for name, cell in cells.items()]
    return "\n".join(table) + "\n"


def _seconds(seconds: float | None) -> str:
    return "not reached" if seconds is None else f"{seconds:.1f}"


ACCURACY: dict[str, Callable[[Figures], str]] = {
    f"seconds of rounds to an accuracy of {GOAL:.2f}": lambda one: _seconds(one.seconds_to(GOAL)),
    "accuracy at the end": lambda one: f"{one.accuracies[-1]:.3f}",
}
