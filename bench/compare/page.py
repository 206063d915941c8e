"""The page that stands both platforms side by side."""

import os
from collections.abc import Sequence
from importlib.metadata import version

from bench.compare.task import Figures, Task

GOAL = 0.9

HEAD = """# Side by side with Flower

Made by `make bench-compare`, one after the other in one run on {cores} cores: {devices} devices, {rounds} rounds of the
small torch network of `edge_client.examples.digits`, the same shards and steps. Flower {flower} runs its deployment
engine with TLS and SuperNode authentication and averages; QFLARE runs all processes of the embedded profile with
everything on: post-quantum sessions, sealed updates, a sealed process with the default robust rules, the log, the
monitor. Its transport has no TLS here, for its requests are sealed; behind nginx it would have.
"""


def page(task: Task, runs: Sequence[Figures]) -> str:
    """Return the page in Markdown."""
    head = HEAD.format(cores=os.cpu_count(), devices=task.devices, rounds=task.rounds, flower=version("flwr"))
    rows = [
        ("seconds of the first round", [f"{one.round_seconds[0]:.1f}" for one in runs]),
        ("seconds of a warm round", [f"{one.warm_round_seconds:.2f}" for one in runs]),
        (f"seconds of rounds to an accuracy of {GOAL:.2f}", [_seconds(one.seconds_to(GOAL)) for one in runs]),
        ("accuracy at the end", [f"{one.accuracies[-1]:.3f}" for one in runs]),
        ("seconds in all, start and enrolment included", [f"{one.total_seconds:.0f}" for one in runs]),
        ("processor seconds of all processes", [f"{one.cpu_seconds:.0f}" for one in runs]),
        ("most memory of all processes, GiB (PSS)", [f"{one.peak_bytes / 2**30:.2f}" for one in runs]),
        ("most memory of one device, MiB (PSS)", [f"{one.peak_device_bytes / 2**20:.0f}" for one in runs]),
        ("megabytes on the wire, both ways", [f"{one.wire_bytes / 1e6:.1f}" for one in runs]),
    ]
    table = ["| | " + " | ".join(one.platform for one in runs) + " |", "|---|" + "---:|" * len(runs)]
    table += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]
    return head + "\n" + "\n".join(table) + "\n"


def _seconds(seconds: float | None) -> str:
    return "not reached" if seconds is None else f"{seconds:.1f}"
