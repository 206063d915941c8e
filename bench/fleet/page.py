"""The page of figures: what a device costs, how long requests take, what the processes took."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.fleet.run import ASK_AGAIN_SECONDS, ASKS, THREADS, FleetFigures
from bench.fleet.summary import STAGES, percentile, summary


def page(fleets: Sequence[FleetFigures]) -> str:
    """Return the page in Markdown."""
    figures = summary(fleets)
    head = HEAD.format(cores=os.cpu_count(), threads=THREADS, asks=ASKS, apart=ASK_AGAIN_SECONDS)
    return "\n".join([head, *_costs(figures), *_rates(figures), *_latencies(fleets), *_processes(figures)]) + "\n"


HEAD = """# A fleet against the whole site

Made by `make bench-fleet`. Virtual devices with the real client, real cryptography and precomputed updates, in a few
processes of {threads} threads each, against all processes of the services profile on the same {cores} cores, PostgreSQL
and Redis included: what the generators take is missing to the site, so that rates are lower than a site alone reaches,
and processor time per device is the figure to plan with ([scaling](../scaling.md)). Every fleet has the same requests
in flight, and a small fleet that is not shown warms the site up. A device asks {asks} times in a row, and again after
{apart:.0f} seconds, as an idle one does: the server keeps nothing of it in memory by then. Before each stage the tables
are vacuumed and analysed, which autovacuum would do within a minute.
"""

Figures = Sequence[dict[str, Any]]


def _table(figures: Figures, rows: Iterable[tuple[str, Callable[[dict[str, Any]], str]]]) -> list[str]:
    lines = ["| | " + " | ".join(f"{one['devices']:,} devices" for one in figures) + " |"]
    lines.append("|---|" + "---:|" * len(figures))
    lines += [f"| {title} | " + " | ".join(cell(one) for one in figures) + " |" for title, cell in rows]
    return [*lines, ""]


def _costs(figures: Figures) -> list[str]:
    def cell(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['server_ms'][name]:.1f} ({one['device_ms'][name]:.1f})"

    rows = [(title, cell(name)) for name, title in STAGES.items()]
    rows.append(("a bare view, one select and one insert", lambda one: f"{one['bare_ms']:.1f}"))
    rows.append(("rate of a sealed POST by the bare view's", lambda one: f"{one['sealed_to_bare_rate']:.2f}"))
    growth = ", ".join(
        f"{title} {figures[-1]['server_ms'][name] / figures[0]['server_ms'][name]:.2f}"
        for name, title in STAGES.items()
    )
    return [
        "## Processor time per device, milliseconds\n",
        "The web processes and PostgreSQL's processes for their connections; in brackets the generator's, which is "
        "what devices themselves spend (and, beside the asks in a row, on posts to the bare view). The bare view is "
        "one of Django REST framework on the same web server and database; each ask in a row is followed by one post "
        "to it, so that both meet the machine in the same state. On the same processor time a sealed POST is to reach "
        "half of its rate. Workers and PostgreSQL's checkpoints are in the last table.\n",
        *_table(figures, rows),
        f"Of the largest fleet by the smallest: {growth}.\n",
    ]


def _rates(figures: Figures) -> list[str]:
    def cell(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['devices_a_second'][name]:.1f}"

    return ["## Devices a second\n", *_table(figures, [(title, cell(name)) for name, title in STAGES.items()])]


def _latencies(fleets: Sequence[FleetFigures]) -> list[str]:
    merged: list[dict[str, list[float]]] = []
    for fleet in fleets:
        merged.append({})
        for stage in fleet.stages:
            for endpoint, samples in stage.samples.items():
                merged[-1].setdefault(endpoint, []).extend(samples)
    rows = [
        "## Requests, milliseconds: p50, p95, p99\n",
        "| endpoint | " + " | ".join(f"{fleet.size:,} devices" for fleet in fleets) + " |",
        "|---|" + "---:|" * len(fleets),
    ]
    for endpoint in sorted(set().union(*merged)):
        cells = " | ".join(_ranks(of_fleet.get(endpoint)) for of_fleet in merged)
        rows.append(f"| `{endpoint}` | {cells} |")
    return [*rows, ""]


def _ranks(samples: Sequence[float] | None) -> str:
    if not samples:
        return "none"
    return ", ".join(f"{percentile(samples, percent) * 1e3:.0f}" for percent in (50, 95, 99))


def _processes(figures: Figures) -> list[str]:
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("updates in the model", lambda one: f"{one['updates_in_the_model']:,}"),
        ("seconds from the order of a round to its being open", lambda one: f"{one['opening_seconds']:.1f}"),
        ("seconds while devices hand in", lambda one: f"{one['round_seconds']:.1f}"),
        ("seconds from the last update to the new model", lambda one: f"{one['aggregate_seconds']:.1f}"),
        ("longest queue, messages", lambda one: str(one["longest_queue"])),
    ]
    for name in figures[0]["round_cpu_seconds"]:
        rows.append(
            (
                f"processor seconds of {name}, while devices hand in",
                lambda one, name=name: f"{one['round_cpu_seconds'][name]:.1f}",
            )
        )
    for name in figures[0]["memory_mb"]:
        rows.append(
            (f"most memory of {name} in any stage, MB (PSS)", lambda one, name=name: f"{one['memory_mb'][name]:.0f}")
        )
    return ["## The round of each fleet, and the processes\n", *_table(figures, rows)]
