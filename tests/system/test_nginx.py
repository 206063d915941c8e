"""The site behind a real nginx, natively: what compose runs in containers."""

import shutil
from pathlib import Path

import pytest

from tests.system.running_site import run_driver

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("nginx"),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not here"),
]


def test_devices_train_over_tls_through_nginx_which_sends_the_models_itself(tmp_path: Path) -> None:
    assert "two rounds behind nginx" in run_driver("tests.system.nginx_driver", str(tmp_path))
