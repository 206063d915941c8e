"""What may take minutes takes turns on a host: a worker of two processes has one left for ticks, whatever else runs."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

WAITS_FRESH_SECONDS = 30


def turn_path() -> Path:
    """Return the file that is locked by whoever has the turn."""
    return Path(settings.QFLARE_DATA_DIR) / "long_work.lock"


def waits_path() -> Path:
    """Return the file that is touched by whoever waits and is to be let in first."""
    return Path(settings.QFLARE_DATA_DIR) / "long_work.waits"


@contextmanager
def turn_of_long_work(*, gives_way: bool) -> Iterator[bool]:
    """Have the host's turn for work that takes long, if nobody has it; give whether that is so.

    Who has it not is to leave at once and to come again: to wait would hold the process that ticks need. What comes
    again each second `gives_way` to what came in vain within the last half minute. The turn ends with the process.
    On a file system without locks everybody has it.
    """
    if gives_way and _somebody_waits():
        yield False
        return
    with turn_path().open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not gives_way:
                waits_path().touch()
            yield False
            return
        except OSError:
            pass
        if not gives_way:
            waits_path().unlink(missing_ok=True)
        yield True


def _somebody_waits() -> bool:
    try:
        return time.time() - waits_path().stat().st_mtime < WAITS_FRESH_SECONDS
    except FileNotFoundError:
        return False
