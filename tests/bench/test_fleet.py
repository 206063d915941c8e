"""The meter of the fleet bench charges each process to its group; the page says what was counted."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from bench.fleet.generator import TimedHttp
from bench.fleet.meter import Meter, Taken, Window, family, with_those_that_ended
from bench.fleet.needs import Use, missing_figures, needs
from bench.fleet.page import page
from bench.fleet.rounds import POLICY
from bench.fleet.run import ROUNDS, FleetFigures, RoundFigures, Stage, merged
from bench.fleet.scaling import ASKS_PER_SECOND, FIGURES, PAGE, Fleet, scaling_page
from bench.fleet.session_keys import keys_a_day
from bench.fleet.summary import STAGES, percentile, server_cpu, summary
from enclave.core.channel import MAX_DEVICES_OF_A_ROUND
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_site.environment import DEFAULTS

GROUPS = ("web", "worker", "beat", "enclave", "postgres", "postgres of the workers", "postgres itself")
OLD_FIGURES = missing_figures(json.loads(FIGURES.read_text())[-1])


def window(**cpu: float) -> Window:
    return Window(2.0, dict.fromkeys(GROUPS, 0.5) | cpu, dict.fromkeys(GROUPS, 30_000_000), longest_queue=3)


def stage(name: str, done: int, web: float, postgres: float) -> Stage:
    samples = {f"POST /{name}": [0.001 * number for number in range(1, 101)]}
    figures = window(web=web, postgres=postgres)
    return Stage(name, done, 2.0, 1.0, samples, figures, wire_bytes=50_000 * done, database_bytes=1_000 * done)


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


def test_a_process_that_ends_between_two_samples_counts_in_its_parent() -> None:
    short = "import time\nwhile time.process_time() < 0.6: pass"
    waits = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {short!r}])\nprint('done', flush=True)\ninput()"
    )
    command = [sys.executable, "-c", waits]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:  # noqa: S603 - our own line
        assert parent.stdin is not None
        assert parent.stdout is not None
        meter = Meter({"family": lambda: family(parent.pid)}, lambda: 0, every_seconds=60)
        with meter.window() as figures:
            assert parent.stdout.readline() == b"done\n"
        parent.stdin.write(b"\n")
    assert 0.5 < figures.cpu_seconds["family"] < 5


def test_a_child_that_was_seen_is_not_counted_again_in_its_parent() -> None:
    before = {(1, 0.0): Taken(0, 1.0), (2, 0.0): Taken(1, 3.0), (9, 0.0): Taken(0, 5.0)}
    alive = {(1, 0.0): Taken(0, 1.0 + 3.2)}
    kept = with_those_that_ended(before, alive)
    assert sum(taken.seconds for taken in kept.values()) == pytest.approx(4.2 + 5.0)


def fleet(devices: int) -> FleetFigures:
    """A fleet whose every stage took 20 ms of a device, 5 ms of them in PostgreSQL; the bare view takes 10."""
    stages = [stage(name, devices, web=0.015 * devices, postgres=0.005 * devices) for name in STAGES]
    stages.append(stage("bare", 1000, web=7.5, postgres=2.5))
    around = RoundFigures(1.5, window(), devices, 2.5, window(enclave=0.001 * devices))
    return FleetFigures(devices, stages, dict.fromkeys(ROUNDS, around))


def test_the_page_says_what_a_sealed_request_reaches_of_the_bare_views_rate() -> None:
    text = page([fleet(100), fleet(1000)])
    assert "| a bare view, one select and one insert | 10.0 | 10.0 |" in text
    assert "| rate of a sealed POST by the bare view's | 0.50 | 0.50 |" in text
    assert "| ask for work (one sealed POST) | 20.0 (10.0) | 20.0 (1.0) |" in text
    assert "| `POST /ask` | 50, 95, 99 | 50, 95, 99 |" in text
    assert "| first round: updates in the model | 100 | 1,000 |" in text
    assert "| second round: updates in the model | 100 | 1,000 |" in text
    assert "| processor seconds of postgres itself, while devices hand in (first round) | 0.5 | 0.5 |" in text
    assert "enrolment (two requests) 1.00" in text


def test_the_page_has_what_a_round_takes_behind_the_answers() -> None:
    text = page([fleet(100), fleet(1000)])
    title = "enclave and its sealed processes, second round"
    assert f"| {title}, while devices hand in | 5.00 | 0.50 |" in text
    assert f"| {title}, from the last update to the new model | 1.00 | 1.00 |" in text
    assert f"| {title}, in all | 11.00 | 2.00 |" in text
    assert f"{title} 0.18" in text


def test_the_page_says_which_policy_and_model_its_rounds_have() -> None:
    text = page([fleet(100)])
    assert POLICY == AggregationPolicy()
    assert "`geometric-median`" in text
    assert "20% of the updates tolerated" in text
    assert "5,000 float32\n(20 kB)" in text


def test_passes_of_one_stage_are_added_up() -> None:
    one, other = stage("ask", 100, web=1.0, postgres=0.5), stage("ask", 300, web=2.0, postgres=0.5)
    other.window.peak_bytes["web"] = 70_000_000
    both = merged([one, other])
    assert (both.done, both.window.cpu_seconds["web"], both.window.peak_bytes["web"]) == (400, 3.0, 70_000_000)
    assert len(both.samples["POST /ask"]) == 200


def test_what_a_fleet_needs_is_its_rates_times_what_a_device_costs() -> None:
    measured = summary([fleet(100)])[0]
    need = needs(Use(100_000, 50, 24, 72, rounds_a_day=1, devices_of_a_round=864), measured)
    assert need.asks == 2000
    assert need.web_cores["idle"] == pytest.approx(2000 * 0.015)
    assert need.database_cores["idle"] == pytest.approx(2000 * (0.005 + 0.005))  # for the web, for the workers
    assert need.web_cores["round"] == pytest.approx(0.01 * 0.015)
    assert need.worker_cores["round"] == pytest.approx(0.01 * 0.030)  # a second of them in each of three phases
    assert need.enclave_cores["round"] == pytest.approx(0.01 * 0.011)
    assert need.cores["round"] == pytest.approx(0.01 * (0.020 + 0.030 + 0.015 + 0.011))
    assert need.web_hosts == 5  # 31.7 cores, four fifths busy, eight to a host
    assert need.bottleneck == "idle"
    assert need.blob_bytes_of_a_round == 8.64e9


def test_a_fleet_that_seldom_asks_is_bound_by_what_it_does() -> None:
    measured = summary([fleet(100)])[0]
    assert needs(Use(1000, 86_400, 24, 0, 1, 10), measured).bottleneck == "session"
    assert needs(Use(1000, 86_400, 1, 72, 1, 10), measured).bottleneck == "rekey"
    assert needs(Use(1000, 86_400, 1, 0, 24, 1000), measured).bottleneck == "round"


def test_a_model_of_the_use_takes_the_place_of_the_measured_one_on_the_wire() -> None:
    measured = summary([fleet(100)])[0]
    need = needs(Use(864, 86_400, 0, 0, 100, 864, update_bytes=1_000_000), measured)
    assert need.network_bytes == pytest.approx(0.01 * 50_000 + 1 * (50_000 + 2 * 980_000))


def test_rows_that_asks_write_are_told_apart_from_those_that_stay() -> None:
    need = needs(Use(1000, 30, 24, 72, 1, 1000), summary([fleet(100)])[0])
    assert need.daily_rows_bytes == pytest.approx(1000 * (24 + 72 + 1) * 1_000)
    assert need.daily_bytes_of_asks == pytest.approx(1000 * 2880 * 1_000)


@pytest.mark.parametrize(("ask_seconds", "sessions", "rekeys"), [(30, 24, 72), (3600, 24, 0), (1800, 48, 0)])
def test_sessions_and_rekeys_follow_from_how_often_a_device_asks(
    ask_seconds: float, sessions: float, rekeys: float
) -> None:
    assert keys_a_day(ask_seconds) == (pytest.approx(sessions), pytest.approx(rekeys))


def test_a_device_whose_asks_skip_the_epoch_of_its_rekey_opens_more_sessions() -> None:
    sessions, rekeys = keys_a_day(334)
    assert 24 < sessions < 35
    assert 40 < rekeys < 72


def test_no_scenario_has_more_devices_in_a_round_than_a_round_can_have() -> None:
    with pytest.raises(ValueError, match="at most 50000"):
        Fleet(100_000, 24, MAX_DEVICES_OF_A_ROUND + 1)


class OneBlob(BaseHTTPRequestHandler):
    """Answers any GET with 1,000 bytes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(1000))

    def log_message(self, *_of_request: object) -> None:
        """Say nothing."""


def test_a_download_is_timed_and_its_bytes_counted_with_headers(tmp_path: Path) -> None:
    samples: dict[str, list[float]] = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), OneBlob) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        http = TimedHttp(f"http://127.0.0.1:{server.server_port}", samples, threading.Lock())
        http.download_into(tmp_path / "model", "/api/blobs/00ff", size_bytes=1000)
        http.close()
        server.shutdown()
        thread.join()
    assert list(samples) == ["GET /api/blobs"]
    assert len(samples["GET /api/blobs"]) == 1
    heads = http.wire_bytes - 1000
    assert len("GET /api/blobs/00ff HTTP/1.1") + len("HTTP/1.0 200 OK") < heads < 1000


def test_the_scaling_page_is_computed_from_the_largest_fleet(tmp_path: Path) -> None:
    figures = tmp_path / "fleet.json"
    figures.write_text(json.dumps(summary([fleet(100), fleet(5000)])))
    text = scaling_page(figures)
    assert "largest measured fleet, 5,000 devices" in text
    assert "| an idle device asks again after | 334 s | 30 s | 334 s |" in text
    assert "| asks a second | 299 | 3,333 | 299 |" in text
    assert "| | 50,000 in each round, default |" in text
    assert "| busy cores, asking for work | 6.1 | 68.0 | 6.1 |" in text
    assert "| of a round, gone when the last device hears of it | 4.2% | 0.4% | 0.0% |" in text
    assert "| what takes most of the processors | **asking for work** | **asking for work** |" in text


def test_the_scaling_page_shows_the_sites_own_default() -> None:
    assert DEFAULTS["QFLARE_ASKS_PER_SECOND"] == ASKS_PER_SECOND


def test_the_scaling_page_says_which_figures_an_older_run_lacks(tmp_path: Path) -> None:
    old = summary([fleet(100)])[0]
    del old["wire_bytes"]["rekey"]
    figures = tmp_path / "fleet.json"
    figures.write_text(json.dumps([old]))
    with pytest.raises(SystemExit, match=r"lacks wire_bytes\.rekey: run make bench-fleet"):
        scaling_page(figures)


@pytest.mark.xfail(
    bool(OLD_FIGURES), raises=SystemExit, strict=True, reason="docs/benchmarks/fleet.json awaits a run of bench-fleet"
)
def test_the_scaling_page_of_the_docs_is_that_of_the_kept_figures() -> None:
    assert scaling_page(FIGURES) == PAGE.read_text()


def test_processor_time_is_of_web_and_its_backends_alone() -> None:
    assert server_cpu(stage("ask", 100, web=0.3, postgres=0.1)) == pytest.approx(0.004)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (99, 4)])
def test_percentiles_are_by_nearest_rank(percent: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], percent) == value
