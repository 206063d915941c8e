"""The meter of the fleet bench charges each process to its group; the page says what was counted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.fleet.meter import Meter, Window, family
from bench.fleet.needs import Use, needs
from bench.fleet.page import page
from bench.fleet.run import FleetFigures, Stage, merged
from bench.fleet.scaling import ASKS_PER_SECOND, FIGURES, PAGE, scaling_page
from bench.fleet.summary import percentile, server_cpu, summary
from qflare_site.environment import DEFAULTS

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


def fleet(devices: int) -> FleetFigures:
    """A fleet whose every stage took 20 ms of a device, 5 ms of them in PostgreSQL; the bare view takes 10."""
    stages = [stage(name, devices, web=0.015 * devices, postgres=0.005 * devices) for name in ("enrol", "session")]
    stages += [stage(name, devices, web=0.015 * devices, postgres=0.005 * devices) for name in ("ask", "idle", "round")]
    stages.append(stage("bare", 1000, web=7.5, postgres=2.5))
    return FleetFigures(devices, stages, accepted=devices, opening_seconds=1.5, aggregate_seconds=2.5)


def test_the_page_says_what_a_sealed_request_reaches_of_the_bare_views_rate() -> None:
    text = page([fleet(100), fleet(1000)])
    assert "| a bare view, one select and one insert | 10.0 | 10.0 |" in text
    assert "| rate of a sealed POST by the bare view's | 0.50 | 0.50 |" in text
    assert "| ask for work (one sealed POST) | 20.0 (10.0) | 20.0 (1.0) |" in text
    assert "| `POST /ask` | 50, 95, 99 | 50, 95, 99 |" in text
    assert "| updates in the model | 100 | 1,000 |" in text
    assert "| processor seconds of postgres itself, while devices hand in | 0.5 | 0.5 |" in text
    assert "enrolment (two requests) 1.00" in text


def test_passes_of_one_stage_are_added_up() -> None:
    one, other = stage("ask", 100, web=1.0, postgres=0.5), stage("ask", 300, web=2.0, postgres=0.5)
    other.window.peak_bytes["web"] = 70_000_000
    both = merged([one, other])
    assert (both.done, both.window.cpu_seconds["web"], both.window.peak_bytes["web"]) == (400, 3.0, 70_000_000)
    assert len(both.samples["POST /ask"]) == 200


def test_what_a_fleet_needs_is_its_rates_times_what_a_device_costs() -> None:
    measured = summary([fleet(100)])[0]
    need = needs(Use(100_000, ask_seconds=50, sessions_a_day=24, rounds_a_day=1, devices_of_a_round=864), measured)
    assert need.asks == 2000
    assert need.web_cores["idle"] == pytest.approx(2000 * 0.015)
    assert need.database_cores["idle"] == pytest.approx(2000 * 0.005)
    assert need.web_cores["round"] == pytest.approx(0.01 * 0.015)
    assert need.web_hosts == 5  # 30.4 cores, four fifths busy, eight to a host
    assert need.bottleneck == "idle"
    assert need.blob_bytes_of_a_round == 8.64e9


def test_a_fleet_that_seldom_asks_is_bound_by_what_it_does() -> None:
    measured = summary([fleet(100)])[0]
    assert needs(Use(1000, 86_400, 24, 1, 10), measured).bottleneck == "session"
    assert needs(Use(1000, 86_400, 1, 24, 1000), measured).bottleneck == "round"


def test_the_scaling_page_is_computed_from_the_largest_fleet(tmp_path: Path) -> None:
    figures = tmp_path / "fleet.json"
    figures.write_text(json.dumps(summary([fleet(100), fleet(5000)])))
    text = scaling_page(figures)
    assert "largest measured fleet, 5,000 devices" in text
    assert "| an idle device asks again after | 334 s | 30 s | 334 s |" in text
    assert "| asks a second | 299 | 3,333 | 299 |" in text
    assert "| busy cores, asking for work | 6.0 | 66.7 | 6.0 |" in text
    assert "| of a round, gone when the last device hears of it | 4.2% | 0.4% | 0.0% |" in text
    assert "| what takes most of the processors | **asking for work** | **asking for work** |" in text


def test_the_scaling_page_shows_the_sites_own_default() -> None:
    assert DEFAULTS["QFLARE_ASKS_PER_SECOND"] == ASKS_PER_SECOND


def test_the_scaling_page_of_the_docs_is_that_of_the_kept_figures() -> None:
    assert scaling_page(FIGURES) == PAGE.read_text()


def test_processor_time_is_of_web_and_its_backends_alone() -> None:
    assert server_cpu(stage("ask", 100, web=0.3, postgres=0.1)) == pytest.approx(0.004)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (99, 4)])
def test_percentiles_are_by_nearest_rank(percent: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], percent) == value
