"""A long log is verified in the memory of a short one, and not much slower than its bare hashes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.verify_log import write_log
from verifier import qflare_verify

MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def memory_of(folder: Path) -> int:
    """Return the most memory that verifying took, in KiB."""
    command = [sys.executable, "-c", MEASURED, qflare_verify.__file__, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("The log holds")
    return int(ran.stderr)


@pytest.mark.slow
def test_ten_times_the_entries_take_no_more_memory_and_time_in_proportion(tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    write_log(tmp_path / "short", 20_000)
    bare, _ = write_log(tmp_path / "long", 200_000)
    short = memory_of(tmp_path / "short")
    begun = time.perf_counter()
    long = memory_of(tmp_path / "long")
    assert long < short + 4 * 1024
    assert time.perf_counter() - begun < 12 * bare
