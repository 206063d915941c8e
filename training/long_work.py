"""What may take minutes takes turns on a host: a worker of two processes has one left for ticks, whatever else runs."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings


def turn_path() -> Path:
    """Return the file that is locked by whoever has the turn."""
    return Path(settings.QFLARE_DATA_DIR) / "long_work.lock"


@contextmanager
def turn_of_long_work() -> Iterator[bool]:
    """Have the host's turn for work that takes long, if nobody has it; give whether that is so.

    Who has it not is to leave at once and to come again: to wait would hold the process that ticks need. The
    turn ends with the process. On a file system without locks everybody has it.
    """
    with turn_path().open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
