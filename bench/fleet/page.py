"""The page of figures: what a device costs, how long requests take, what the processes took."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.fleet.meter import EVERY_SECONDS
from bench.fleet.rounds import MODEL_BYTES, MODEL_COLUMNS, POLICY
from bench.fleet.run import ASK_AGAIN_SECONDS, ASKS, ROUNDS, THREADS, FleetFigures
from bench.fleet.summary import BEHIND, PHASES, STAGES, percentile, summary


def page(fleets: Sequence[FleetFigures]) -> str:
    """Return the page in Markdown."""
    figures = summary(fleets)
    head = HEAD.format(cores=os.cpu_count(), threads=THREADS, asks=ASKS, apart=ASK_AGAIN_SECONDS)
    rounds = ROUNDS_TEXT.format(columns=MODEL_COLUMNS, kilobytes=MODEL_BYTES / 1e3, policy=_policy())
    parts = [*_costs(figures), *_behind(figures), *_rates(figures), *_wire(figures), *_latencies(fleets)]
    return "\n".join([head, rounds, *parts, *_rounds(figures), *_processes(figures)]) + "\n"


HEAD = """# A fleet against the whole site

Made by `make bench-fleet`. Virtual devices with the real client, real cryptography and precomputed updates, in a few
processes of {threads} threads each, against all processes of the services profile on the same {cores} cores, PostgreSQL
and Redis included: what the generators take is missing to the site, so that rates are lower than a site alone reaches,
and processor time per device is the figure to plan with ([scaling](../scaling.md)). Every fleet has the same requests
in flight, and a small fleet that is not shown warms the site up. A device asks {asks} times in a row, and again after
{apart:.0f} seconds, as an idle one does: the server keeps nothing of it in memory by then. Before each stage the tables
are vacuumed and analysed, which autovacuum would do within a minute.
"""

ROUNDS_TEXT = """The rounds are those of a federation by default: {policy}. The model is small, {columns:,} float32
({kilobytes:.0f} kB), so that what is measured is what a device costs, not what a model's bytes do
([aggregate](aggregate.md)). Every fleet has two rounds of all its devices. The model of the second round has a signed
result, so that what a device asks for before it downloads includes that result and its own verdict's path.
"""


def _policy() -> str:
    stages = [stage.name for stage in (*POLICY.filters, *POLICY.pre_aggregation, POLICY.rule, POLICY.server_optimiser)]
    return f"{', '.join(f'`{name}`' for name in stages)}, {POLICY.tolerated_fraction:.0%} of the updates tolerated"


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
        f"{title} {_growth(figures, lambda one, name=name: one['server_ms'][name])}" for name, title in STAGES.items()
    )
    return [
        "## Processor time per device, milliseconds\n",
        "The web processes and PostgreSQL's processes for their connections; in brackets the generator's, which is "
        "what devices themselves spend (and, beside the asks in a row, on posts to the bare view). The bare view is "
        "one of Django REST framework on the same web server and database; each ask in a row is followed by one post "
        "to it, so that both meet the machine in the same state. On the same processor time a sealed POST is to reach "
        "half of its rate. Workers and enclave are in the next table, PostgreSQL's checkpoints in the last.\n",
        *_table(figures, rows),
        f"Of the largest fleet by the smallest: {growth}.\n",
    ]


def _growth(figures: Figures, of: Callable[[dict[str, Any]], float]) -> str:
    """Return the figure of the largest fleet by that of the smallest."""
    smallest = of(figures[0])
    return f"{of(figures[-1]) / smallest:.2f}" if smallest > 0 else "(nothing in the smallest)"


BEHIND_TITLES = {
    "workers_ms": "workers and beat",
    "workers_database_ms": "PostgreSQL for them",
    "enclave_ms": "enclave and its sealed processes",
}


def _behind(figures: Figures) -> list[str]:
    """Return what works for a round without answering devices."""
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = []
    growth = []
    for name, round_ in zip(ROUNDS, ("first", "second"), strict=True):
        for figure in BEHIND:
            for phase, title in PHASES.items():

                def of(one: dict[str, Any], name: str = name, figure: str = figure, phase: str = phase) -> float:
                    return float(one["rounds"][name]["phases_ms"][phase][figure])

                rows.append((f"{BEHIND_TITLES[figure]}, {round_} round, {title}", lambda one, of=of: f"{of(one):.2f}"))

            def all_of(one: dict[str, Any], name: str = name, figure: str = figure) -> float:
                return float(one[figure][name])

            rows.append((f"{BEHIND_TITLES[figure]}, {round_} round, in all", lambda one, of=all_of: f"{of(one):.2f}"))
            growth.append(f"{BEHIND_TITLES[figure]}, {round_} round {_growth(figures, all_of)}")
    return [
        "## Processor time per device behind the answers, milliseconds\n",
        "What a round takes of the processes that answer no device, by the number of its devices. Beat runs all the "
        "time, so that a small fleet carries more of it; a sealed process counts whole, however short it lives.\n",
        *_table(figures, rows),
        f"Of the largest fleet by the smallest: {', '.join(growth)}.\n",
    ]


def _rates(figures: Figures) -> list[str]:
    def cell(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['devices_a_second'][name]:.1f}"

    return ["## Devices a second\n", *_table(figures, [(title, cell(name)) for name, title in STAGES.items()])]


def _wire(figures: Figures) -> list[str]:
    def cell(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['wire_bytes'][name]:,.0f}"

    return [
        "## Bytes on the wire per device\n",
        "First lines, headers and bodies both ways as HTTP/1.1 writes them, blobs included; TCP, IP and TLS are not "
        "in it.\n",
        *_table(figures, [(title, cell(name)) for name, title in STAGES.items()]),
    ]


def _latencies(fleets: Sequence[FleetFigures]) -> list[str]:
    merged: list[dict[str, list[float]]] = []
    for fleet in fleets:
        merged.append({})
        for stage in fleet.stages:
            for endpoint, samples in stage.samples.items():
                merged[-1].setdefault(endpoint, []).extend(samples)
    rows = [
        "## Requests, milliseconds: p50, p95, p99\n",
        "Until the answer's body is read; that of `GET /api/blobs`, the download of a model, is written to a file in "
        "memory.\n",
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


def _rounds(figures: Figures) -> list[str]:
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = []
    for name, title in zip(ROUNDS, ("first round", "second round"), strict=True):

        def cell(figure: str, form: str, name: str = name) -> Callable[[dict[str, Any]], str]:
            return lambda one: format(one["rounds"][name][figure], form)

        rows += [
            (f"{title}: updates in the model", cell("updates_in_the_model", ",")),
            (f"{title}: seconds from the order to its being open", cell("opening_seconds", ".1f")),
            (f"{title}: seconds while devices hand in", cell("seconds", ".1f")),
            (f"{title}: seconds from the last update to the new model", cell("aggregate_seconds", ".1f")),
        ]
    return ["## The rounds of each fleet\n", *_table(figures, rows)]


def _processes(figures: Figures) -> list[str]:
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        (f"longest queue, messages (looked at every {EVERY_SECONDS:g} s)", lambda one: str(one["longest_queue"])),
    ]
    for name in figures[0]["rounds"]["round"]["cpu_seconds"]:
        rows.append(
            (
                f"processor seconds of {name}, while devices hand in (first round)",
                lambda one, name=name: f"{one['rounds']['round']['cpu_seconds'][name]:.1f}",
            )
        )
    for name in figures[0]["memory_mb"]:
        rows.append(
            (f"most memory of {name} in any stage, MB (PSS)", lambda one, name=name: f"{one['memory_mb'][name]:.0f}")
        )
    return ["## The processes\n", *_table(figures, rows)]
