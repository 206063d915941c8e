"""The figures of a run by which others plan: what a device costs in each stage, and what the processes took."""

import math
from collections.abc import Sequence
from typing import Any

from bench.fleet.run import FleetFigures, Stage

STAGES = {
    "enrol": "enrolment (two requests)",
    "session": "session (handshake, cosignature)",
    "ask": "ask for work (one sealed POST)",
    "idle": "the same after half a minute's rest",
    "round": "work, model, update, receipt",
}
SERVING = ("web", "postgres")
"""The groups of processes that answer devices; the others work at their own pace."""


def summary(fleets: Sequence[FleetFigures]) -> list[dict[str, Any]]:
    """Return of each fleet, ready for JSON: milliseconds of a core for each device, rates, memory in MB."""
    return [_of_fleet(fleet) for fleet in fleets]


def _of_fleet(fleet: FleetFigures) -> dict[str, Any]:
    round_ = fleet.stage("round").window
    return {
        "devices": fleet.size,
        "updates_in_the_model": fleet.accepted,
        "server_ms": {name: server_cpu(fleet.stage(name)) * 1e3 for name in STAGES},
        "database_ms": {name: _cpu(fleet.stage(name), ("postgres",)) * 1e3 for name in STAGES},
        "device_ms": {name: _own(fleet.stage(name)) * 1e3 for name in STAGES},
        "devices_a_second": {name: fleet.stage(name).done / fleet.stage(name).seconds for name in STAGES},
        "body_bytes": {name: fleet.stage(name).body_bytes / max(fleet.stage(name).done, 1) for name in STAGES},
        "database_bytes": {name: fleet.stage(name).database_bytes / max(fleet.stage(name).done, 1) for name in STAGES},
        "bare_ms": server_cpu(fleet.stage("bare")) * 1e3,
        "sealed_to_bare_rate": bare_ratio(fleet),
        "opening_seconds": fleet.opening_seconds,
        "aggregate_seconds": fleet.aggregate_seconds,
        "longest_queue": max(stage.window.longest_queue for stage in fleet.stages),
        "round_seconds": fleet.stage("round").seconds,
        "round_cpu_seconds": round_.cpu_seconds,
        "memory_mb": {name: _peak(fleet, name) / 1e6 for name in round_.peak_bytes},
    }


def server_cpu(stage: Stage) -> float:
    """Return the processor seconds of web and database for one device in a stage."""
    return _cpu(stage, SERVING)


def bare_ratio(fleet: FleetFigures) -> float:
    """Return the rate of a sealed POST by that of the bare view beside it, on the same processor time."""
    return server_cpu(fleet.stage("bare")) / server_cpu(fleet.stage("ask"))


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the value that so many of a hundred samples stay within, by nearest rank."""
    return sorted(samples)[max(0, math.ceil(percent / 100 * len(samples)) - 1)]


def _cpu(stage: Stage, groups: Sequence[str]) -> float:
    return sum(stage.window.cpu_seconds[name] for name in groups) / max(stage.done, 1)


def _own(stage: Stage) -> float:
    return stage.generator_cpu_seconds / max(stage.done, 1)


def _peak(fleet: FleetFigures, group: str) -> int:
    return max(stage.window.peak_bytes.get(group, 0) for stage in fleet.stages)
