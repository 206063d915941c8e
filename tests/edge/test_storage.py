"""A device's folder belongs to one process at a time."""

import fcntl
from pathlib import Path

import pytest

from edge_client.storage import hold_home
from qflare_protocol.errors import Refusal


def test_a_folder_that_another_process_works_with_is_refused(tmp_path: Path) -> None:
    """A lock belongs to an open file, so a second open stands for a second process."""
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Refusal, match="Another qflare-edge"):
            hold_home(tmp_path)
    hold_home(tmp_path)


def test_a_held_folder_is_kept_to_this_process(tmp_path: Path) -> None:
    hold_home(tmp_path)
    hold_home(tmp_path)
    with (tmp_path / "lock").open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
