"""Peak memory of the demo: the proportional set size of this process and all it started."""

import threading

import psutil

SAMPLE_SECONDS = 1.0


class PeakMemory:
    """Samples from a thread; shared pages are counted once, as Linux's PSS does."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, proportional_set_size(psutil.Process()))


def proportional_set_size(process: psutil.Process) -> int:
    """Return the PSS in bytes of a process and all below it; those that end meanwhile count nothing."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
