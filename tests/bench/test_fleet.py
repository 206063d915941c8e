"""The meter of the fleet bench charges each process to its group; the page says what was counted."""

import subprocess
import sys
import time

import psutil
import pytest

from bench.fleet.meter import Meter, Window, family
from bench.fleet.page import page, percentile, server_cpu
from bench.fleet.run import FleetFigures, Stage

GROUPS = ("web", "worker", "postgres", "postgres of the workers", "postgres itself")


def stage(name: str, done: int, web: float, postgres: float) -> Stage:
    cpu = dict.fromkeys(GROUPS, 0.5) | {"web": web, "postgres": postgres}
    window = Window(2.0, cpu, dict.fromkeys(GROUPS, 30_000_000), longest_queue=3)
    return Stage(name, done, 2.0, 1.0, {f"POST /{name}": [0.001 * number for number in range(1, 101)]}, window)


def test_a_group_is_charged_for_what_its_processes_take_in_the_window() -> None:
    busy = "import time\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", busy])  # noqa: S603 - our own line
    try:
        meter = Meter({"busy": lambda: family(child.pid), "none": list}, lambda: 7)
        with meter.window() as figures:
            while sum(psutil.Process(child.pid).cpu_times()[:2]) < 0.7:
                time.sleep(0.05)
        with meter.window() as idle:
            time.sleep(0.2)
    finally:
        child.kill()
        child.wait()
    assert figures.cpu_seconds["busy"] > 0.4
    assert (figures.cpu_seconds["none"], figures.longest_queue) == (0, 7)
    assert figures.peak_bytes["busy"] > 1_000_000
    assert idle.cpu_seconds["busy"] < 0.2


def test_the_page_says_what_a_sealed_request_reaches_of_the_bare_views_rate() -> None:
    bare = [stage("bare", 1000, web=1.0, postgres=0.5), stage("bare", 1000, web=1.5, postgres=1.0)]
    fleet = FleetFigures(100, [stage(name, 500, web=1.5, postgres=0.5) for name in ("enrol", "session", "ask")])
    fleet.stages.append(stage("round", 100, web=1.5, postgres=0.5))
    fleet.accepted = 100
    text = page(bare, [fleet])
    assert "1.50 and 2.50 ms a request, before and after the fleets" in text
    assert "reaches 0.50 of its rate" in text
    assert "| ask for work (one sealed POST) | 4.0 (2.0) |" in text
    assert "| `POST /ask` | 100 | 50 | 95 | 99 |" in text
    assert "| updates in the model | 100 |" in text
    assert "| processor seconds of postgres itself, while devices hand in | 0.5 |" in text


def test_processor_time_is_of_web_and_its_backends_alone() -> None:
    assert server_cpu(stage("ask", 100, web=0.3, postgres=0.1)) == pytest.approx(0.004)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (99, 4)])
def test_percentiles_are_by_nearest_rank(percent: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], percent) == value
