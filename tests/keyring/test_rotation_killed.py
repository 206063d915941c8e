"""A rotation whose process is killed with SIGKILL half way is finished by running it again, on a database in a file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = [sys.executable, "-m", "tests.keyring.rotation_driver"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A site of its own on the embedded profile."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    return {**kept, "QFLARE_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "qflare_site.settings"}


@pytest.fixture
def run(environment: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    """Run the driver and return what it has found."""

    def run_driver(*arguments: str) -> list[dict[str, Any]]:
        done = subprocess.run([*DRIVER, *arguments], cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]

    return run_driver


@pytest.mark.slow
def test_a_rotation_killed_half_way_is_finished_by_the_next_run(
    run: Callable[..., list[dict[str, Any]]], environment: dict[str, str], tmp_path: Path
) -> None:
    (before,) = run("populate")
    assert len(before["private"]) == 6
    _rotate_until_killed(environment, after_values=3)
    half_way, after = run("rotate", "0")
    assert half_way["private"] == before["private"]
    assert len(half_way["under"]) == 2
    assert half_way["retired"] == 1
    assert half_way["keks"] == [f"{tmp_path}/keys/kek", f"{tmp_path}/keys/kek.2"]
    assert after["private"] == before["private"]
    assert len(after["under"]) == 1
    assert not set(after["data_keys"]) & set(before["data_keys"])
    assert (after["retired"], after["keks"]) == (0, [f"{tmp_path}/keys/kek.2"])


def _rotate_until_killed(environment: dict[str, str], *, after_values: int) -> None:
    command = [*DRIVER, "rotate", str(after_values)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("half way" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=20) == -signal.SIGKILL
