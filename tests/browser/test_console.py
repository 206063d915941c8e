"""The console in a real browser, with real processes and devices behind it."""

from pathlib import Path

import pytest

from tests.system.running_site import run_driver

pytest.importorskip("playwright", reason="playwright is not installed")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="Debian's chromium is not here"),
]


def test_an_operator_runs_a_fleet_from_sign_in_to_a_suspended_device() -> None:
    assert "ran a fleet in a browser" in run_driver("tests.browser.console_driver", timeout_seconds=500)
