"""Unwrapped chains of hot sessions, in this process's memory for seconds.

The row in the database decides: an entry is found by the wrapped value that was just read from it, so a
chain that moved on, was rekeyed or ended anywhere is never found again. Entries go after 30 seconds, the
grace of a past epoch, also when nobody asks: what is kept to be fast must not outlive what is erased to
be safe.
"""

import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable

from qflare_protocol.epochs import GRACE_SECONDS, EpochChain

MOST_SESSIONS = 1024


class ChainCache:
    """At most `MOST_SESSIONS` chains, one for a session, each for at most `GRACE_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Start empty, with a lock and no timer: in a forked child the parent's do not live."""
        self._entries: OrderedDict[uuid.UUID, tuple[float, bytes, EpochChain]] = OrderedDict()
        self._lock = threading.Lock()
        self._cleaner: threading.Timer | None = None

    def __repr__(self) -> str:
        return f"ChainCache({len(self._entries)} sessions)"

    def get(self, session_id: uuid.UUID, wrapped: bytes) -> EpochChain | None:
        """Return the chain whose wrapped form is exactly this one."""
        with self._lock:
            self._drop_old()
            entry = self._entries.get(session_id)
        return entry[2] if entry is not None and entry[1] == wrapped else None

    def put(self, session_id: uuid.UUID, wrapped: bytes, chain: EpochChain) -> None:
        """Keep a session's chain with its wrapped form, in place of an earlier one."""
        with self._lock:
            self._entries.pop(session_id, None)
            self._entries[session_id] = (self._clock(), wrapped, chain)
            if len(self._entries) > MOST_SESSIONS:
                self._entries.popitem(last=False)
            self._drop_old()
            if self._cleaner is None:
                self._clean_later()

    def _drop_old(self) -> None:
        oldest = self._clock() - GRACE_SECONDS
        while self._entries and next(iter(self._entries.values()))[0] <= oldest:
            self._entries.popitem(last=False)

    def _clean_later(self) -> None:
        oldest = next(iter(self._entries.values()))[0]
        self._cleaner = threading.Timer(max(0.1, oldest + GRACE_SECONDS - self._clock()), self._clean)
        self._cleaner.daemon = True
        self._cleaner.start()

    def _clean(self) -> None:
        with self._lock:
            self._cleaner = None
            self._drop_old()
            if self._entries:
                self._clean_later()


CHAINS = ChainCache()

os.register_at_fork(after_in_child=CHAINS.begin_anew)
