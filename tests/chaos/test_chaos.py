"""Everything a site is made of is killed at the steps of a round; see `tests.chaos.__main__`."""

import os
import subprocess
import sys

import pytest

from tests.chaos.stage import what_is_missing
from tests.system.running_site import ROOT

pytestmark = [
    pytest.mark.xdist_group("whole system"),
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing()),
    pytest.mark.skipif("DATABASE_URL" in os.environ, reason="it brings its own stores and runs in the embedded leg"),
]


def chaos(*arguments: str, timeout_seconds: float) -> str:
    command = [sys.executable, "-m", "tests.chaos", *arguments]
    done = subprocess.run(  # noqa: S603 - our own driver
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.timeout(200)
def test_a_round_survives_its_web_server_its_sealed_process_and_the_database() -> None:
    said = chaos("--short", timeout_seconds=180)
    assert "3 kills survived" in said


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_victim_at_every_step_costs_time_and_no_update() -> None:
    said = chaos("--table", timeout_seconds=2900)
    assert "never met" not in said
