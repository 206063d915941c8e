"""One run: a site of its own, the bare view beside it, and fleets of several sizes."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import psycopg
import redis
from psycopg import sql

from bench.fleet.meter import Meter, Window, backends_of, backends_of_others, family, postgres_background
from bench.fleet.rounds import end_of, make_federation, make_tokens, open_round

UNLIMITED = "1000000/m"
THREADS = 4
WARM_UP = 48
ASKS = 5
"""Of each device in a row, so that what the server keeps of a busy session is there in a fleet of any size."""
ROUNDS = ("round", "next_round")
"""The stages that are rounds: the base model of the second one has a signed result, that of the first has none."""
IDLE_ASKS, ASK_AGAIN_SECONDS = 2, 31.0
"""As an idle device asks: its chain has left the server's memory then."""


@dataclass
class Stage:
    """What one command to all devices came to.

    `wire_bytes` went and came, with headers and blobs; `database_bytes` is by how much the database grew.
    """

    name: str
    done: int
    seconds: float
    generator_cpu_seconds: float
    samples: dict[str, list[float]]
    window: Window
    wire_bytes: int = 0
    database_bytes: int = 0


@dataclass
class RoundFigures:
    """What lies around the stage in which devices hand in: the round's opening, and from its last update to its end."""

    opening_seconds: float
    opening: Window
    accepted: int
    aggregate_seconds: float
    aggregating: Window


@dataclass
class FleetFigures:
    """All stages of one fleet, with the bare view beside it, and what became of its rounds by their stage's name."""

    size: int
    stages: list[Stage] = field(default_factory=list)
    rounds: dict[str, RoundFigures] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


class Generators:
    """The processes that hold the virtual devices."""

    def __init__(self, url: str, count: int, folder: Path) -> None:
        command = [sys.executable, "-m", "bench.fleet.generator", url, str(THREADS)]
        environment = os.environ | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        self._children = [
            subprocess.Popen(  # noqa: S603 - our own module
                [*command, str(folder / f"generator-{number}")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )  # fmt: skip
            for number in range(count)
        ]
        self._pipes = [(cast(IO[str], child.stdin), cast(IO[str], child.stdout)) for child in self._children]

    def obey(self, commands: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Give each process its command at once and return their answers as one."""
        for (commanded, _), command in zip(self._pipes, commands, strict=True):
            commanded.write(json.dumps(command) + "\n")
            commanded.flush()
        answers = [json.loads(answered.readline()) for _, answered in self._pipes]
        samples: dict[str, list[float]] = {}
        for answer in answers:
            for endpoint, seconds in answer["samples"].items():
                samples.setdefault(endpoint, []).extend(seconds)
        return {
            "done": sum(answer["done"] for answer in answers),
            "seconds": max(answer["seconds"] for answer in answers),
            "cpu_seconds": sum(answer["cpu_seconds"] for answer in answers),
            "wire_bytes": sum(answer["wire_bytes"] for answer in answers),
            "samples": samples,
        }

    def close(self) -> None:
        """End all of them."""
        for child, (commanded, answered) in zip(self._children, self._pipes, strict=True):
            commanded.close()
            child.wait(30)
            answered.close()


class FleetBench:
    """Runs fleets against one site; made by `site_under_load`."""

    def __init__(self, group: Any, bare: Any, database_url: str, folder: Path, generators: int) -> None:
        self._group, self._bare, self._folder, self._generators = group, bare, folder, generators
        self._database_url, database = database_url, database_url.rpartition("/")[2]
        pids = group.pids()
        groups = {name: lambda pid=pid: family(pid) for name, pid in pids.items()}
        groups |= {
            "postgres": lambda: backends_of(family(pids["web"]), database),
            "postgres of the workers": lambda: backends_of_others(family(pids["web"]), database),
            "postgres itself": postgres_background,
        }
        self._meter = Meter(groups, _queued)
        bare_groups = {
            "web": lambda: family(bare.pids()["web"]),
            "postgres": lambda: backends_of(family(bare.pids()["web"]), f"{database}_bare"),
        }
        self._bare_meter = Meter(bare_groups, lambda: 0)

    def warm_up(self) -> None:
        """Have every thread of the site its connections, and all code its first run."""
        self._fleet(FleetFigures(WARM_UP), ask_again_seconds=0.0)

    def fleet(self, size: int) -> FleetFigures:
        """Enrol a fleet, open its sessions, ask for work beside posts to the bare view, rekey, and run two rounds."""
        return self._fleet(FleetFigures(size), ask_again_seconds=ASK_AGAIN_SECONDS)

    def _fleet(self, figures: FleetFigures, *, ask_again_seconds: float) -> FleetFigures:
        name = f"fleet-{figures.size}"
        running = Generators(self._group.url, self._generators, self._folder)
        try:
            tokens = make_tokens(figures.size, name)
            commands = [{"do": "enrol", "tokens": tokens[number :: self._generators]} for number in self._numbers]
            figures.stages.append(self._stage("enrol", running, commands))
            figures.stages.append(self._stage("session", running, [{"do": "session"}] * self._generators))
            began = time.monotonic()
            figures.stages += self._asks_beside_the_bare_view(running)
            passes = []
            for _ in range(IDLE_ASKS):
                time.sleep(max(0.0, began + ask_again_seconds - time.monotonic()))
                began = time.monotonic()
                passes.append(self._stage("idle", running, [{"do": "ask", "times": 1}] * self._generators))
            figures.stages.append(merged(passes))
            figures.stages.append(self._stage("rekey", running, [{"do": "rekey"}] * self._generators))
            federation = make_federation(name)
            for stage in ROUNDS:
                self._round(stage, running, federation, figures)
        finally:
            running.close()
        return figures

    def _round(self, name: str, running: Generators, federation: uuid.UUID, figures: FleetFigures) -> None:
        with self._meter.window() as opening:
            round_, opening_seconds = open_round(federation)
        figures.stages.append(self._stage(name, running, [{"do": "round"}] * self._generators))
        with self._meter.window() as aggregating:
            accepted, aggregate_seconds = end_of(round_)
        figures.rounds[name] = RoundFigures(opening_seconds, opening, accepted, aggregate_seconds, aggregating)

    @property
    def _numbers(self) -> range:
        return range(self._generators)

    def _stage(self, name: str, running: Generators, commands: Sequence[dict[str, Any]]) -> Stage:
        """Take a stage's figures, on tables that are vacuumed and analysed, as PostgreSQL has them after a minute."""
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
            before = _database_size(connection)
            stage = _measured(name, running, commands, self._meter)
            stage.database_bytes = _database_size(connection) - before
        return stage

    def _asks_beside_the_bare_view(self, running: Generators) -> list[Stage]:
        """Have every ask followed by a post to the bare view, so that both meet the machine in the same state."""
        command = {"do": "ask", "times": ASKS, "beside": self._bare.url}
        with self._bare_meter.window() as window:
            asked = self._stage("ask", running, [command] * self._generators)
        bare = {name: asked.samples.pop(name) for name in list(asked.samples) if name.startswith("POST /bare")}
        posts = len(bare.get("POST /bare", ()))
        return [asked, Stage("bare", posts, asked.seconds, 0.0, bare, window)]


def merged(passes: Sequence[Stage]) -> Stage:
    """Return the figures of several runs of one stage as those of one."""
    samples: dict[str, list[float]] = {}
    for one in passes:
        for endpoint, seconds in one.samples.items():
            samples.setdefault(endpoint, []).extend(seconds)
    windows = [one.window for one in passes]
    groups = list(windows[0].cpu_seconds)
    window = Window(
        sum(one.seconds for one in windows),
        {name: sum(one.cpu_seconds[name] for one in windows) for name in groups},
        {name: max(one.peak_bytes[name] for one in windows) for name in groups},
        max(one.longest_queue for one in windows),
    )
    return Stage(
        passes[0].name,
        sum(one.done for one in passes),
        sum(one.seconds for one in passes),
        sum(one.generator_cpu_seconds for one in passes),
        samples,
        window,
        sum(one.wire_bytes for one in passes),
        sum(one.database_bytes for one in passes),
    )


def _measured(name: str, running: Generators, commands: Sequence[dict[str, Any]], meter: Meter) -> Stage:
    with meter.window() as window:
        answer = running.obey(commands)
    return Stage(
        name, answer["done"], answer["seconds"], answer["cpu_seconds"], answer["samples"], window, answer["wire_bytes"]
    )


def _queued() -> int:
    """Return how many messages no worker has taken; 0 where Redis does not answer in its second on a full machine."""
    from qflare_site.broker_queues import waiting_messages

    try:
        return sum(waiting_messages().values())
    except redis.RedisError:
        logging.getLogger(__name__).warning("the broker did not say how long its queues are")
        return 0


def _database_size(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


@contextlib.contextmanager
def site_under_load(server: str, broker_url: str, generators: int) -> Iterator[FleetBench]:
    """Give a bench on a site of its own: databases, data folder and all processes, gone at the end."""
    from bench.postgresql_site import own_site

    memory = Path("/dev/shm")  # noqa: S108 - virtual devices share one disk, which real ones do not
    with (
        own_site(server, broker_url) as url,
        tempfile.TemporaryDirectory(dir=memory if memory.exists() else None) as folder,
    ):
        os.environ |= {"QFLARE_LOG_LEVEL": "ERROR"} | {
            f"QFLARE_RATE_{name}": UNLIMITED
            for name in ("ENROLMENT", "CHALLENGE", "SUBMISSION", "DOWNLOAD", "WORK", "LOG", "REFUSAL_EVENTS")
        }
        from qflare_site.processes import ProcessGroup, free_address

        group = ProcessGroup(free_address(), log_dir=Path(folder) / "log")
        group.start()
        try:
            with _bare_site(server, url, Path(folder)) as bare:
                yield FleetBench(group, bare, url, Path(folder), generators)
        finally:
            group.stop()
            with redis.Redis.from_url(broker_url) as broker:
                broker.flushdb()


@contextlib.contextmanager
def _bare_site(server: str, url: str, folder: Path) -> Iterator[Any]:
    from qflare_site.processes import ProcessGroup, commands, free_address

    name = url.rpartition("/")[2] + "_bare"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        environment = {"BARE_DATABASE_URL": f"{url}_bare", "DJANGO_SETTINGS_MODULE": ""}
        try:
            made = [sys.executable, "-m", "bench.fleet.bare_view"]
            subprocess.run(made, env=os.environ | environment, check=True)  # noqa: S603 - our own module
            address = free_address()
            command = [*commands(address)["web"][:-1], "bench.fleet.bare_view:application"]
            group = ProcessGroup(address, environment, folder / "bare-log", {"web": command})
            group._launch("web")
            _await_answer(group.url)
            try:
                yield group
            finally:
                group.stop()
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _await_answer(url: str) -> None:
    import httpx

    for _ in range(300):
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(f"{url}/bare", json={"note": "first"}).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the bare view does not answer")
