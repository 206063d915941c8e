"""The figures of a run by which others plan: what a device costs in each stage, and what the processes took."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.fleet.meter import Window
from bench.fleet.rounds import MODEL_BYTES
from bench.fleet.run import FleetFigures, Stage

STAGES = {
    "enrol": "enrolment (two requests)",
    "session": "session (handshake, cosignature)",
    "rekey": "rekey (one sealed POST, new keys)",
    "ask": "ask for work (one sealed POST)",
    "idle": "the same after half a minute's rest",
    "round": "work, model, update, receipt: first round",
    "next_round": "the same in the second round, whose model has a signed result",
}
SERVING = ("web", "postgres")
"""The groups of processes that answer devices; the others work at their own pace."""
BEHIND = {
    "workers_ms": ("worker", "beat"),
    "workers_database_ms": ("postgres of the workers",),
    "enclave_ms": ("enclave",),
}
"""The groups of processes that work for devices without answering them, by the name of their figure."""
PHASES = {
    "opening": "from the order of a round to its being open",
    "handing_in": "while devices hand in",
    "aggregating": "from the last update to the new model",
}


def summary(fleets: Sequence[FleetFigures]) -> list[dict[str, Any]]:
    """Return of each fleet, ready for JSON: milliseconds of a core for each device, rates, memory in MB."""
    return [_of_fleet(fleet) for fleet in fleets]


def _of_fleet(fleet: FleetFigures) -> dict[str, Any]:
    return {
        "devices": fleet.size,
        "model_bytes": MODEL_BYTES,
        "server_ms": {name: server_cpu(fleet.stage(name)) * 1e3 for name in STAGES},
        "database_ms": {name: _cpu(fleet.stage(name), ("postgres",)) * 1e3 for name in STAGES},
        **{figure: _behind(fleet, groups) for figure, groups in BEHIND.items()},
        "device_ms": {name: _own(fleet.stage(name)) * 1e3 for name in STAGES},
        "devices_a_second": {name: fleet.stage(name).done / fleet.stage(name).seconds for name in STAGES},
        "wire_bytes": {name: fleet.stage(name).wire_bytes / max(fleet.stage(name).done, 1) for name in STAGES},
        "database_bytes": {name: fleet.stage(name).database_bytes / max(fleet.stage(name).done, 1) for name in STAGES},
        "bare_ms": server_cpu(fleet.stage("bare")) * 1e3,
        "sealed_to_bare_rate": bare_ratio(fleet),
        "longest_queue": max(window.longest_queue for window in _windows(fleet)),
        "rounds": {name: _of_round(fleet, name) for name in fleet.rounds},
        "memory_mb": {name: _peak(fleet, name) / 1e6 for name in fleet.stage("round").window.peak_bytes},
    }


def _of_round(fleet: FleetFigures, name: str) -> dict[str, Any]:
    """Return what became of one round; `phases_ms` are of a core and one device, by phase and figure of `BEHIND`."""
    stage, around = fleet.stage(name), fleet.rounds[name]
    return {
        "updates_in_the_model": around.accepted,
        "opening_seconds": around.opening_seconds,
        "seconds": stage.seconds,
        "aggregate_seconds": around.aggregate_seconds,
        "cpu_seconds": stage.window.cpu_seconds,
        "phases_ms": {
            phase: {figure: _taken(window, groups) / max(stage.done, 1) * 1e3 for figure, groups in BEHIND.items()}
            for phase, window in _phases(fleet, name).items()
        },
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


def _phases(fleet: FleetFigures, name: str) -> dict[str, Window]:
    around = fleet.rounds[name]
    windows = (around.opening, fleet.stage(name).window, around.aggregating)
    return dict(zip(PHASES, windows, strict=True))


def _behind(fleet: FleetFigures, groups: Sequence[str]) -> dict[str, float]:
    """Return the milliseconds of these groups for one device by stage, those of a round with all its phases."""
    found = {}
    for name in STAGES:
        stage = fleet.stage(name)
        windows = _phases(fleet, name).values() if name in fleet.rounds else [stage.window]
        found[name] = sum(_taken(window, groups) for window in windows) / max(stage.done, 1) * 1e3
    return found


def _windows(fleet: FleetFigures) -> list[Window]:
    around = [window for one in fleet.rounds.values() for window in (one.opening, one.aggregating)]
    return [*(stage.window for stage in fleet.stages), *around]


def _cpu(stage: Stage, groups: Sequence[str]) -> float:
    return _taken(stage.window, groups) / max(stage.done, 1)


def _taken(window: Window, groups: Sequence[str]) -> float:
    taken: Mapping[str, float] = window.cpu_seconds
    return sum(taken[name] for name in groups)


def _own(stage: Stage) -> float:
    return stage.generator_cpu_seconds / max(stage.done, 1)


def _peak(fleet: FleetFigures, group: str) -> int:
    return max(window.peak_bytes.get(group, 0) for window in _windows(fleet))
