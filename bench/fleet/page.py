"""The page of figures: what a device costs, how long requests take, what the processes took."""

import math
import os
from collections.abc import Sequence
from statistics import fmean

from bench.fleet.run import FleetFigures, Stage

STAGES = {
    "enrol": "enrolment (two requests)",
    "session": "session (handshake, cosignature)",
    "ask": "ask for work (one sealed POST)",
    "round": "work, model, update, receipt",
}


def page(bare: Sequence[Stage], fleets: Sequence[FleetFigures]) -> str:
    """Return the page in Markdown."""
    parts = [HEAD.format(cores=os.cpu_count()), *_costs(bare, fleets), *_latencies(fleets), *_processes(fleets)]
    return "\n".join(parts) + "\n"


def server_cpu(stage: Stage) -> float:
    """Return the processor seconds of web and database for one device in a stage."""
    return (stage.window.cpu_seconds["web"] + stage.window.cpu_seconds["postgres"]) / max(stage.done, 1)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the value that so many of a hundred samples stay within, by nearest rank."""
    return sorted(samples)[max(0, math.ceil(percent / 100 * len(samples)) - 1)]


HEAD = """# A fleet against the whole site

Made by `make bench-fleet`. Virtual devices with the real client, real cryptography and precomputed updates, in a few
processes, against all processes of the services profile on the same {cores} cores, PostgreSQL and Redis included: what
the generators take is missing to the site, so that rates are lower than a site alone reaches, and processor time per
device is the figure to plan with ([scaling](../scaling.md)).
"""


def _costs(bare: Sequence[Stage], fleets: Sequence[FleetFigures]) -> list[str]:
    rows = [
        "## Processor time per device, milliseconds\n",
        "The web processes and PostgreSQL's processes for their connections; in brackets the generator's, which is "
        "what devices themselves spend. Workers and PostgreSQL's checkpoints are in the last table.\n",
        "| | " + " | ".join(f"{fleet.size} devices" for fleet in fleets) + " |",
        "|---|" + "---:|" * len(fleets),
    ]
    for name, title in STAGES.items():
        cells = []
        for fleet in fleets:
            stage = _stage(fleet, name)
            own = stage.generator_cpu_seconds / max(stage.done, 1)
            cells.append(f"{server_cpu(stage) * 1e3:.1f} ({own * 1e3:.1f})")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    reference = fmean(server_cpu(stage) for stage in bare)
    asks = [reference / server_cpu(_stage(fleet, "ask")) for fleet in fleets]
    rows += [
        "",
        "A bare Django REST framework view with one select and one insert, same web server and database: "
        + " and ".join(f"{server_cpu(stage) * 1e3:.2f}" for stage in bare)
        + " ms a request, before and after the fleets. On the same processors a sealed POST therefore reaches "
        + ", ".join(f"{ratio:.2f}" for ratio in asks)
        + " of its rate, in the order of the columns (target: 0.5).\n",
    ]
    return rows


def _latencies(fleets: Sequence[FleetFigures]) -> list[str]:
    rows = ["## Requests of the largest fleet, milliseconds\n", "| endpoint | requests | p50 | p95 | p99 |"]
    rows.append("|---|---:|---:|---:|---:|")
    merged: dict[str, list[float]] = {}
    for stage in fleets[-1].stages:
        for endpoint, samples in stage.samples.items():
            merged.setdefault(endpoint, []).extend(samples)
    for endpoint, samples in sorted(merged.items()):
        ranks = " | ".join(f"{percentile(samples, percent) * 1e3:.0f}" for percent in (50, 95, 99))
        rows.append(f"| `{endpoint}` | {len(samples)} | {ranks} |")
    return [*rows, ""]


def _processes(fleets: Sequence[FleetFigures]) -> list[str]:
    rows = [
        "## The round of each fleet\n",
        "| | " + " | ".join(f"{fleet.size} devices" for fleet in fleets) + " |",
        "|---|" + "---:|" * len(fleets),
        "| updates in the model | " + " | ".join(str(fleet.accepted) for fleet in fleets) + " |",
    ]
    rounds = [_stage(fleet, "round") for fleet in fleets]
    rows.append("| devices a second | " + " | ".join(f"{stage.done / stage.seconds:.1f}" for stage in rounds) + " |")
    seconds = " | ".join(f"{fleet.aggregate_seconds:.1f}" for fleet in fleets)
    rows.append(f"| seconds from the last update to the new model | {seconds} |")
    longest = " | ".join(str(max(stage.window.longest_queue for stage in fleet.stages)) for fleet in fleets)
    rows.append(f"| longest queue, messages | {longest} |")
    for name in rounds[0].window.cpu_seconds:
        seconds = " | ".join(f"{stage.window.cpu_seconds[name]:.1f}" for stage in rounds)
        rows.append(f"| processor seconds of {name}, while devices hand in | {seconds} |")
    for name in rounds[0].window.peak_bytes:
        peaks = " | ".join(f"{stage.window.peak_bytes[name] / 1e6:.0f}" for stage in rounds)
        rows.append(f"| most memory of {name}, MB (PSS) | {peaks} |")
    return rows


def _stage(fleet: FleetFigures, name: str) -> Stage:
    return next(stage for stage in fleet.stages if stage.name == name)
