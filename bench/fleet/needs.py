"""What a fleet needs, computed from what one device was measured to cost."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CORES_OF_A_HOST = 8
USED = 0.8
DAY = 86_400
COMMANDS_OF_A_LIMIT = 1
"""Redis commands by which a request is counted."""
REQUESTS = {"idle": 1, "session": 3, "rekey": 1, "round": 4}
MEASURED_AS = {"idle": "idle", "session": "session", "rekey": "rekey", "round": "next_round"}
"""The stage whose figures stand for each: all rounds but the first have a model with a signed result."""
BY_STAGE = (
    "server_ms", "database_ms", "workers_ms", "workers_database_ms", "enclave_ms", "wire_bytes", "database_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Use:
    """How a fleet is used: seconds between two asks of an idle device; the rest by day, or of one update."""

    devices: int
    ask_seconds: float
    sessions_a_day: float
    rekeys_a_day: float
    rounds_a_day: float
    devices_of_a_round: int
    update_bytes: int = 10_000_000


@dataclass(frozen=True)
class Needs:
    """Of one use: rates by second, cores by what takes them, hosts, bytes."""

    asks: float
    requests: float
    web_cores: dict[str, float]
    database_cores: dict[str, float]
    worker_cores: dict[str, float]
    enclave_cores: dict[str, float]
    registry_bytes: float
    daily_rows_bytes: float
    daily_bytes_of_asks: float
    blob_bytes_of_a_round: float
    network_bytes: float

    @property
    def cores(self) -> dict[str, float]:
        """Cores of all processes by what takes them."""
        groups = (self.web_cores, self.database_cores, self.worker_cores, self.enclave_cores)
        return {name: sum(group[name] for group in groups) for name in self.web_cores}

    @property
    def web_hosts(self) -> int:
        """Hosts of eight cores that are four fifths busy."""
        return math.ceil(sum(self.web_cores.values()) / USED / CORES_OF_A_HOST)

    @property
    def postgresql_cores(self) -> int:
        """Cores of PostgreSQL that are four fifths busy, those for the workers included."""
        return math.ceil(sum(self.database_cores.values()) / USED)

    @property
    def redis_commands(self) -> float:
        """Commands a second."""
        return COMMANDS_OF_A_LIMIT * self.requests

    @property
    def bottleneck(self) -> str:
        """What takes most of the processors: "idle", "session", "rekey" or "round"."""
        total = self.cores
        return max(total, key=lambda name: total[name])


def missing_figures(measured: Mapping[str, Any]) -> list[str]:
    """Return the names of figures that `needs` asks for and an older `bench.fleet` has not taken."""
    stages = (*MEASURED_AS.values(), "enrol")
    absent = [] if "model_bytes" in measured else ["model_bytes"]
    return absent + [
        f"{figure}.{stage}" for figure in BY_STAGE for stage in stages if stage not in measured.get(figure, ())
    ]


def needs(use: Use, measured: Mapping[str, Any]) -> Needs:
    """Compute what a use needs from the figures of one fleet, as `bench.fleet.summary` has them."""
    rates = {
        "idle": use.devices / use.ask_seconds,
        "session": use.devices * use.sessions_a_day / DAY,
        "rekey": use.devices * use.rekeys_a_day / DAY,
        "round": use.devices_of_a_round * use.rounds_a_day / DAY,
    }
    rows = measured["database_bytes"]

    def cores(*figures: str, less: str = "") -> dict[str, float]:
        return dict(_cores(rates, measured, figures, less))

    return Needs(
        asks=rates["idle"],
        requests=sum(REQUESTS[name] * rate for name, rate in rates.items()),
        web_cores=cores("server_ms", less="database_ms"),
        database_cores=cores("database_ms", "workers_database_ms"),
        worker_cores=cores("workers_ms"),
        enclave_cores=cores("enclave_ms"),
        registry_bytes=use.devices * rows["enrol"],
        daily_rows_bytes=DAY * sum(rates[name] * rows[MEASURED_AS[name]] for name in rates if name != "idle"),
        daily_bytes_of_asks=DAY * rates["idle"] * rows["idle"],
        blob_bytes_of_a_round=float(use.devices_of_a_round * use.update_bytes),
        network_bytes=_network_bytes(use, rates, measured),
    )


def _cores(
    rates: Mapping[str, float], measured: Mapping[str, Any], figures: tuple[str, ...], less: str
) -> Iterator[tuple[str, float]]:
    for name, rate in rates.items():
        stage = MEASURED_AS[name]
        ms = sum(measured[figure][stage] for figure in figures) - (measured[less][stage] if less else 0.0)
        yield name, rate * ms / 1e3


def _network_bytes(use: Use, rates: Mapping[str, float], measured: Mapping[str, Any]) -> float:
    """Return bytes a second, with a model and an update of the use in place of the measured ones."""
    measured_bytes = sum(rate * measured["wire_bytes"][MEASURED_AS[name]] for name, rate in rates.items())
    return measured_bytes + 2 * rates["round"] * (use.update_bytes - measured["model_bytes"])
