"""The page that says what larger fleets need: `python -m bench.fleet.scaling [--figures FILE] [--output FILE]`.

It runs no fleet: it computes the page from the figures that `python -m bench.fleet` has left.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fleet.needs import CORES_OF_A_HOST, DAY, USED, Needs, Use, missing_figures, needs
from bench.fleet.session_keys import keys_a_day
from bench.fleet.summary import STAGES
from enclave.core.channel import MAX_DEVICES_OF_A_ROUND
from training.services.asking import fleet_seconds, usual_seconds

FIGURES, PAGE = Path("docs/benchmarks/fleet.json"), Path("docs/scaling.md")
TAKES = {"idle": "asking for work", "session": "sessions", "rekey": "rekeys", "round": "the rounds themselves"}
ASKS_PER_SECOND = 300
"""The default of `QFLARE_ASKS_PER_SECOND`."""


@dataclass(frozen=True)
class Fleet:
    """A fleet and its rounds: how many devices are in each, and how many rounds there are in a day.

    Raises `ValueError` for rounds of more devices than one can have.
    """

    devices: int
    rounds_a_day: int
    devices_of_a_round: int

    def __post_init__(self) -> None:
        if self.devices_of_a_round > MAX_DEVICES_OF_A_ROUND:
            raise ValueError(f"a round has at most {MAX_DEVICES_OF_A_ROUND} devices")

    @property
    def round_seconds(self) -> int:
        """How long a round lasts where the next follows at once."""
        return DAY // self.rounds_a_day

    def asking(self, asks_per_second: int = ASKS_PER_SECOND) -> Use:
        """Return how it is used where the operator has set so many asks a second."""
        usual = usual_seconds(self.round_seconds)
        wait = max(usual, fleet_seconds(self.devices, asks_per_second, self.round_seconds))
        return Use(self.devices, wait, *keys_a_day(wait), self.rounds_a_day, self.devices_of_a_round)


@dataclass(frozen=True)
class Step:
    """A section of the page: uses beside one another, and what follows from them."""

    title: str
    uses: Mapping[str, Use]
    design: str


HALF_IN_EACH, SOME_IN_EACH = Fleet(100_000, 24, MAX_DEVICES_OF_A_ROUND), Fleet(100_000, 24, 5_000)
MILLIONS = Fleet(10_000_000, 1, 10_000)
STEPS = (
    Step(
        "100,000 devices, a round an hour",
        {
            "50,000 in each round, default": HALF_IN_EACH.asking(),
            "the same, `QFLARE_ASKS_PER_SECOND=4000`": HALF_IN_EACH.asking(4_000),
            "5,000 in each round, default": SOME_IN_EACH.asking(),
        },
        "asking",
    ),
    Step(
        "10,000,000 devices, a round a day with 10,000 of them",
        {
            "default": MILLIONS.asking(),
            "`QFLARE_ASKS_PER_SECOND=30000`": MILLIONS.asking(30_000),
            "`QFLARE_ASKS_PER_SECOND=400000`": MILLIONS.asking(400_000),
        },
        "registry",
    ),
)


def scaling_page(figures: Path) -> str:
    """Return the page in Markdown, computed from the figures of the largest measured fleet.

    Raises `SystemExit`, which names them, where an older `bench.fleet` has not taken all figures.
    """
    measured = json.loads(figures.read_text())[-1]
    if absent := missing_figures(measured):
        raise SystemExit(f"{figures} is of an older bench.fleet and lacks {', '.join(absent)}: run make bench-fleet.")
    parts = [_head(measured), _device(measured)]
    for step in STEPS:
        parts += [f"## {step.title}\n", _table(step.uses, measured), DESIGNS[step.design]]
    return "\n".join([*parts, END])


def _head(measured: Mapping[str, Any]) -> str:
    return HEAD.format(devices=measured["devices"], hosts=CORES_OF_A_HOST, used=round(100 * USED))


def _device(measured: Mapping[str, Any]) -> str:
    rows = [DEVICE_HEAD, "|---|" + "---:|" * 6]
    for name, title in STAGES.items():
        cells = (
            f"{measured['server_ms'][name]:.1f}",
            f"{measured['database_ms'][name]:.1f}",
            f"{measured['workers_ms'][name] + measured['workers_database_ms'][name]:.1f}",
            f"{measured['enclave_ms'][name]:.1f}",
            f"{measured['wire_bytes'][name] / 1e3:.1f}",
            f"{measured['database_bytes'][name] / 1e3:.1f}",
        )
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(["## One device\n", *rows, ""])


def _table(uses: Mapping[str, Use], measured: Mapping[str, Any]) -> str:
    columns = [_column(use, needs(use, measured)) for use in uses.values()]
    rows = [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]]
    return "\n".join([f"| | {' | '.join(uses)} |", f"|---|{'---:|' * len(columns)}", *rows, ""])


def _column(use: Use, need: Needs) -> dict[str, str]:
    cores = {f"busy cores, {TAKES[name]}": f"{taken:,.1f}" for name, taken in need.cores.items()}
    return {
        "an idle device asks again after": f"{use.ask_seconds:,.0f} s",
        "of a round, gone when the last device hears of it": f"{use.ask_seconds * use.rounds_a_day / DAY:.1%}",
        "asks a second": f"{need.asks:,.0f}",
        "sessions of a device, a day": f"{use.sessions_a_day:.1f}",
        "rekeys of a device, a day": f"{use.rekeys_a_day:.1f}",
        **cores,
        f"web hosts of {CORES_OF_A_HOST} cores": f"{need.web_hosts:,}",
        "cores of PostgreSQL": f"{need.postgresql_cores:,}",
        "busy cores of workers and beat": f"{sum(need.worker_cores.values()):,.1f}",
        "busy cores of the enclave": f"{sum(need.enclave_cores.values()):,.1f}",
        "Redis commands a second": f"{need.redis_commands:,.0f}",
        "rows of the registry of devices": _bytes(need.registry_bytes),
        "rows of sessions, rekeys, rounds and their events, a day": _bytes(need.daily_rows_bytes),
        "rows that asks write anew, a day, whose place vacuum frees": _bytes(need.daily_bytes_of_asks),
        f"sealed updates of one round, {use.update_bytes / 1e6:.0f} MB each": _bytes(need.blob_bytes_of_a_round),
        "network, updates and models included, a second": _bytes(need.network_bytes),
        "what takes most of the processors": f"**{TAKES[need.bottleneck]}**",
    }


DEVICE_HEAD = (
    "| | server, ms of a core | of it PostgreSQL | workers with their PostgreSQL | enclave | wire, kB | rows, kB |"
)


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


HEAD = """# What a large fleet needs

Computed by `make scaling` from the figures of [benchmarks/fleet.md](benchmarks/fleet.md): processor time, bytes and
rows of one device in the largest measured fleet, {devices:,} devices, times what a fleet does. Nothing here was
measured beyond that; cores are those of that machine. Hosts have {hosts} cores, {used} % busy. An update and a model
have 10 MB. Every device asks all day; its sessions and rekeys follow from how often: a session lives an hour, its keys
are renewed in the fourth five minutes of their use, and where no ask falls into these a handshake begins another. A
round counts as the second one of the measured federation, with the aggregation and its workers. Bytes on the wire are
those of HTTP/1.1, without TCP, IP and TLS. What was not measured is not counted: what an ask costs more after five
minutes, when it moves the session's keys on, PostgreSQL's checkpoints, and what sealing, opening and aggregating cost
more for 10 MB than for the measured 20 kB: the cores of the enclave are a lower bound.
"""

DESIGNS = {
    "asking": """*Bottleneck:* named in the table. `QFLARE_ASKS_PER_SECOND` says how many devices may ask in a second
although nothing waits; from 9,000 devices on its default makes each ask less often. *What it saves* is the first column
beside the second, where it is set so high that each asks twice a minute as in a small fleet. *What it costs* is time: a
device hears of a round that much later, by half of it on average, but never by more than a sixth of the shortest round
it may be in, and a device that went away counts as present for that much longer. Raise it where rounds have to begin
at once, and give the web the cores of the second column. Web hosts are stateless and are added; PostgreSQL is the one
part that grows upwards.

Then the bytes of updates and models: with `BLOB_URL=s3://...` they pass no web host, and an ordinary cache may stand
before `GET /api/blobs`, whose answers never change and are useless without a session's key. Not every device is needed
in every round: `target` and a random or labelled selection leave rounds of some thousand devices, the third column.
One round has at most 50,000 devices, all that a request to the enclave names: a fleet of 100,000 has a `target`, or is
two federations whose models nobody averages. *Rules that look at all pairs of updates*, as the default does, have
their Gram matrix of n² numbers of 8 bytes, 0.2 GB at 5,000 devices and 20 GB at 50,000, which is more than the sealed
process may have by default (`maximum_memory_bytes`, 4 GiB), and its time grows with n² too, which the first two columns
leave out; rules by coordinate and the mean have no such matrix. Every update that arrives counts itself on its
round's row, one commit after the other.
""",
    "registry": """*Bottleneck:* named in the table. Nobody is told to wait for more than an hour, so ten million
devices ask more often than the default has it. After an hour a session is over, so that each ask opens one, which
costs more than the ask. So the second column, in which devices hear of a round ten times as soon, takes far less than
ten times the cores. At two asks a minute, the third column, no number of hosts is the answer. *Design for it, not
built:* to tell a device the time of the next round, so that with a round a day it asks, and opens a session, once a
day.

Then the registry, whose keys alone (FrodoKEM's public key has 9.6 kB) outgrow memory, and vacuum of a table in which
every ask writes when the device was last seen. *Design for it, not built:* keys of devices in the blob store or behind
a cache, as a handshake alone needs them; the time a device was last seen in a table of its own; sessions, exchanges and
participations partitioned by time; `QF1-K1024` in place of `QF1-F640` where 1.6 kB a key are enough; a site for each
region with its own enclave, whose results a second level aggregates. QFLARE has no second level today: regions are
federations of their own.
""",
}

END = """## What does not grow with the fleet

One sequencer writes the log, one tick dispatches; both take events and rounds in batches. One sealed process reads a
round's updates at about 1 GB a second and core ([sealed.md](benchmarks/sealed.md)); `ranges` spread a large model over
several processes of the enclave host. Handshakes, answers and receipts of different devices share no row but the
round's.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page anew from the figures as they lie there; no fleet is run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    options.output.write_text(scaling_page(options.figures))


if __name__ == "__main__":
    main()
