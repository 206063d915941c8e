"""Ephemeral key pairs that wait ready in this process, so that no device waits for their making.

Each is handed out once, lives in this process's memory alone and is never written anywhere. A forked
child begins with an empty store: two processes that held the same key would use it in two places.
"""

import os
import threading
from collections import deque

from qflare_protocol import pqc
from qflare_protocol.pqc import KeyPair

READY = 32


class ReadyKeys:
    """Fresh key pairs of one KEM, made ahead by a thread of this process."""

    def __init__(self, kem: str, ready: int = READY) -> None:
        self._kem, self._ready = kem, ready
        self._pairs: deque[KeyPair] = deque()
        self._wanted = threading.Event()
        self._maker: threading.Thread | None = None
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"ReadyKeys({self._kem}, {len(self._pairs)} of {self._ready})"

    def take(self) -> KeyPair:
        """Return a key pair that nobody has; one is made on the spot where none is ready."""
        try:
            pair = self._pairs.popleft()  # atomic: two threads never get the same one
        except IndexError:
            pair = pqc.kem(self._kem).generate()
        self._start_maker()
        self._wanted.set()
        return pair

    def _start_maker(self) -> None:
        if not self._has_maker():
            with self._starting:
                if not self._has_maker():
                    self._maker = threading.Thread(target=self._make, name=f"ready keys {self._kem}", daemon=True)
                    self._maker.start()

    def _has_maker(self) -> bool:
        return self._maker is not None and self._maker.is_alive()

    def _make(self) -> None:
        while self._wanted.wait():
            self._wanted.clear()
            while len(self._pairs) < self._ready:
                self._pairs.append(pqc.kem(self._kem).generate())


_STORES: dict[str, ReadyKeys] = {}


def fresh_key_pair(kem: str) -> KeyPair:
    """Return a key pair of a KEM that nobody has used. Raises `Refusal("algorithm-unavailable")`."""
    store = _STORES.get(kem)
    if store is None:
        store = _STORES.setdefault(kem, ReadyKeys(kem))  # atomic: two threads end with the same one
    return store.take()


os.register_at_fork(after_in_child=_STORES.clear)
