"""The processor time of everything that a run has started, however short it lived: what the kernel adds up."""

import contextlib
import ctypes
import os
import resource
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_SECONDS = 20


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends first (prctl(2)), so that their time is counted here."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def seconds_of_descendants() -> float:
    """End what still runs of this process's descendants and return the CPU seconds of all there were."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while children := psutil.Process().children(recursive=True):
        for child in children if time.monotonic() > deadline else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(0.1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
