"""One run: a site of its own, the bare view beside it, and fleets of several sizes."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import psycopg
import redis
from psycopg import sql

from bench.fleet.meter import Meter, Window, backends_of, backends_of_others, family, postgres_background

OPERATOR = "operator:bench"
UNLIMITED = "1000000/m"
THREADS = 4
MODEL_COLUMNS = 5_000
ROUND_SECONDS = 3600
ASKS = 5  # of each device, one after the other: what it costs to ask is small beside what a stage costs around it


@dataclass
class Stage:
    """What one command to all devices came to."""

    name: str
    done: int
    seconds: float
    generator_cpu_seconds: float
    samples: dict[str, list[float]]
    window: Window


@dataclass
class FleetFigures:
    """All stages of one fleet, and what became of its round."""

    size: int
    stages: list[Stage] = field(default_factory=list)
    accepted: int = 0
    aggregate_seconds: float = 0.0


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

    def __init__(self, group: Any, bare: Any, database: str, folder: Path, broker: redis.Redis) -> None:
        self._group, self._bare, self._folder = group, bare, folder
        pids = group.pids()
        groups = {name: lambda pid=pid: family(pid) for name, pid in pids.items()}
        groups |= {
            "postgres": lambda: backends_of(family(pids["web"]), database),
            "postgres of the workers": lambda: backends_of_others(family(pids["web"]), database),
            "postgres itself": postgres_background,
        }
        self._meter = Meter(groups, lambda: sum(broker.llen(queue) for queue in ("default", "audit", "enclave")))
        bare_groups = {
            "web": lambda: family(bare.pids()["web"]),
            "postgres": lambda: backends_of(family(bare.pids()["web"]), f"{database}_bare"),
        }
        self._bare_meter = Meter(bare_groups, lambda: 0)

    def bare_view(self, times: int, generators: int) -> Stage:
        """Post to the bare view so many times."""
        running = Generators(self._bare.url, generators, self._folder)
        try:
            warm = {"do": "bare", "times": 16 * THREADS}  # every thread of the web server has its connection then
            running.obey([warm] * generators)
            return _stage(
                "bare", running, [{"do": "bare", "times": times // generators}] * generators, self._bare_meter
            )
        finally:
            running.close()

    def fleet(self, size: int, generators: int) -> FleetFigures:
        """Enrol a fleet, open its sessions, ask for work, and run one round with all of it."""
        figures = FleetFigures(size)
        running = Generators(self._group.url, generators, self._folder)
        try:
            tokens = _tokens(size, f"fleet-{size}")
            share = [tokens[number::generators] for number in range(generators)]
            commands = [{"do": "enrol", "tokens": part} for part in share]
            figures.stages.append(_stage("enrol", running, commands, self._meter))
            for name, times in (("session", 1), ("ask", ASKS)):
                figures.stages.append(_stage(name, running, [{"do": name, "times": times}] * generators, self._meter))
            round_ = _open_round(size)
            figures.stages.append(_stage("round", running, [{"do": "round"}] * generators, self._meter))
            figures.accepted, figures.aggregate_seconds = _end_of(round_)
        finally:
            running.close()
        return figures


def _stage(name: str, running: Generators, commands: Sequence[dict[str, Any]], meter: Meter) -> Stage:
    with meter.window() as window:
        answer = running.obey(commands)
    return Stage(name, answer["done"], answer["seconds"], answer["cpu_seconds"], answer["samples"], window)


@contextlib.contextmanager
def site_under_load(server: str, broker_url: str) -> Iterator[FleetBench]:
    """Give a bench on a site of its own: databases, data folder and all processes, gone at the end."""
    from bench.postgresql_site import own_site

    memory = Path("/dev/shm")  # noqa: S108 - virtual devices share one disk, which real ones do not
    with own_site(server) as url, tempfile.TemporaryDirectory(dir=memory if memory.exists() else None) as folder:
        os.environ |= {"REDIS_URL": broker_url, "QFLARE_LOG_LEVEL": "ERROR"} | {
            f"QFLARE_RATE_{name}": UNLIMITED
            for name in ("ENROLMENT", "CHALLENGE", "SUBMISSION", "DOWNLOAD", "WORK", "LOG", "REFUSAL_EVENTS")
        }
        from qflare_site.processes import ProcessGroup, free_address

        database = url.rpartition("/")[2]
        group = ProcessGroup(free_address(), log_dir=Path(folder) / "log")
        group.start()
        try:
            with _bare_site(server, url, Path(folder)) as bare, redis.Redis.from_url(broker_url) as broker:
                yield FleetBench(group, bare, database, Path(folder), broker)
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


def _tokens(count: int, name: str) -> list[str]:
    from django.utils import timezone

    from enrollment.services import issue_token

    now = timezone.now()
    return [issue_token(actor=OPERATOR, now=now, group=name).text for _ in range(count)]


def _open_round(size: int) -> Any:
    """Open a round of the whole fleet and wait for its enclave."""
    from django.utils import timezone

    from qflare_protocol.aggregation_policy import NONE, AggregationPolicy, Stage
    from qflare_protocol.tensors import encode_tensors
    from training.dispatch import start_round
    from training.services.federations import create_federation

    policy = AggregationPolicy(
        tolerated_fraction=0.0, filters=(), pre_aggregation=(), rule=Stage("mean"), server_optimiser=NONE
    )
    federation = create_federation(
        f"fleet-{size}",
        initial_model=encode_tensors({"w": np.zeros(MODEL_COLUMNS, np.float32)}),
        trainer="bench:Precomputed",
        policy=policy,
        group=f"fleet-{size}",
        actor=OPERATOR,
        now=timezone.now(),
    )
    opened = start_round(federation.pk, actor=OPERATOR, now=timezone.now())
    return _wait(opened, "open")


def _end_of(round_: Any) -> tuple[int, float]:
    """Wait for the round's end; return how many updates are in the model and how long that took after the last."""
    started = time.perf_counter()
    ended = _wait(round_, "completed")
    return ended.participations.filter(state="accepted").count(), time.perf_counter() - started


def _wait(round_: Any, state: str) -> Any:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        round_.refresh_from_db()
        if round_.state == state:
            return round_
        if round_.state in ("failed", "cancelled"):
            raise SystemExit(f"the round {round_.state}: {round_.end_reason}")
        time.sleep(0.1)
    raise SystemExit(f"the round is still {round_.state}")
