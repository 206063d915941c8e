"""What a fleet needs, computed from what one device was measured to cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CORES_OF_A_HOST = 8
USED = 0.8
DAY = 86_400
COMMANDS_OF_A_LIMIT = 1
"""Redis commands by which a request is counted."""


@dataclass(frozen=True)
class Use:
    """How a fleet is used: seconds between two asks of an idle device; the rest by day, or of one update."""

    devices: int
    ask_seconds: float
    sessions_a_day: float
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
    registry_bytes: float
    daily_rows_bytes: float
    blob_bytes_of_a_round: float
    network_bytes: float

    @property
    def web_hosts(self) -> int:
        """Hosts of eight cores that are four fifths busy."""
        return math.ceil(sum(self.web_cores.values()) / USED / CORES_OF_A_HOST)

    @property
    def postgresql_cores(self) -> int:
        """Cores of PostgreSQL that are four fifths busy."""
        return math.ceil(sum(self.database_cores.values()) / USED)

    @property
    def redis_commands(self) -> float:
        """Commands a second."""
        return COMMANDS_OF_A_LIMIT * self.requests

    @property
    def bottleneck(self) -> str:
        """What takes most of the processors: "idle", "session" or "round"."""
        total = {name: self.web_cores[name] + self.database_cores[name] for name in self.web_cores}
        return max(total, key=lambda name: total[name])


def needs(use: Use, measured: Mapping[str, Any]) -> Needs:
    """Compute what a use needs from the figures of one fleet, as `bench.fleet.summary` has them."""
    rates = {
        "idle": use.devices / use.ask_seconds,
        "session": use.devices * use.sessions_a_day / DAY,
        "round": use.devices_of_a_round * use.rounds_a_day / DAY,
    }
    server, database = measured["server_ms"], measured["database_ms"]
    bodies, rows = measured["body_bytes"], measured["database_bytes"]
    return Needs(
        asks=rates["idle"],
        requests=rates["idle"] + 3 * rates["session"] + 4 * rates["round"],
        web_cores={name: rate * (server[name] - database[name]) / 1e3 for name, rate in rates.items()},
        database_cores={name: rate * database[name] / 1e3 for name, rate in rates.items()},
        registry_bytes=use.devices * rows["enrol"],
        daily_rows_bytes=DAY * (rates["session"] * rows["session"] + rates["round"] * rows["round"]),
        blob_bytes_of_a_round=float(use.devices_of_a_round * use.update_bytes),
        # A model comes for each update that goes.
        network_bytes=sum(rate * bodies[name] for name, rate in rates.items()) + 2 * rates["round"] * use.update_bytes,
    )
