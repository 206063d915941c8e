"""The console in a real browser, with real processes and devices behind it."""

import os
from pathlib import Path

import pytest

from tests.system.running_site import run_driver

pytest.importorskip("playwright", reason="playwright is not installed")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="Debian's chromium is not here"),
]


def test_an_operator_runs_a_fleet_from_sign_in_to_a_suspended_device() -> None:
    """With `QFLARE_KEEP_PICTURES` (`make images`) the pictures of the documentation are taken on the way."""
    folder = os.environ.get("QFLARE_KEEP_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    arguments = [str(Path(folder).resolve())] if folder else []
    assert "ran a fleet" in run_driver("tests.browser.console_driver", *arguments, timeout_seconds=500)
