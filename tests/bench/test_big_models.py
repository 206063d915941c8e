"""The processes of the server hold no more of a large model than of a small one."""

import subprocess
import sys

import pytest

from tests.docs.reading import ROOT

SMALL, LARGE = 16, 160
SLACK_MIB = 24


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_servers_memory_is_flat_in_the_size_of_the_model() -> None:
    command = [sys.executable, "-m", "bench.big_models", "--mib", str(SMALL), str(LARGE)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=True)  # noqa: S603
    rows = {}
    for line in said.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            rows[int(cells[0])] = [int(cell) for cell in cells[2:6]]
    for name, small, large in zip(("web", "worker", "enclave", "sealed"), rows[SMALL], rows[LARGE], strict=True):
        assert 0 < large < small + SLACK_MIB, f"{name}: {small} MiB with {SMALL} MiB, {large} with {LARGE}"
