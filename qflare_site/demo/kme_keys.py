"""The keys of the KME simulator: drawn for a pair of SAEs, given to the slave once, then forgotten.

There is no quantum channel here. Both simulated KMEs look into one process's memory, and the keys
come from the operating system's random source.
"""

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from qflare_protocol.qkd.etsi014 import KeyRequest, QkdKey

Pair = tuple[str, str]
"""Master and slave SAE."""


@dataclass(frozen=True)
class LinkLimits:
    """What one pair of SAEs may have; sizes in bits. A key that nobody fetches is erased after its lifetime."""

    key_size_bits: int = 256
    min_key_size_bits: int = 64
    max_key_size_bits: int = 1024
    max_key_per_request: int = 16
    max_key_count: int = 1000
    key_lifetime_seconds: float = 300.0


class KeyRefused(Exception):  # noqa: N818 - it says what happened
    """An error answer: its HTTP status, its message and the names and values that explain it."""

    def __init__(self, status: HTTPStatus, message: str, **details: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.details = [{name: value} for name, value in details.items()]


@dataclass(frozen=True)
class _Waiting:
    key: bytes = field(repr=False)
    erased_at: float


class SimulatedLink:
    """The keys that wait for their slave, by pair and id. `clock` gives seconds that never go back."""

    def __init__(self, limits: LinkLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[Pair, dict[uuid.UUID, _Waiting]] = {}

    def stored_keys(self, pair: Pair) -> int:
        """Return how many more keys the pair can be given now."""
        with self._lock:
            return self.limits.max_key_count - len(self._of(pair))

    def draw(self, pair: Pair, request: KeyRequest) -> list[QkdKey]:
        """Draw fresh keys for the master and keep each for the slave. Raises `KeyRefused`."""
        size_bits = self.limits.key_size_bits if request.size_bits is None else request.size_bits
        self._check(request.number, size_bits)
        with self._lock:
            waiting = self._of(pair)
            if len(waiting) + request.number > self.limits.max_key_count:
                raise KeyRefused(HTTPStatus.SERVICE_UNAVAILABLE, "not enough keys are stored for these SAEs")
            keys = [QkdKey(uuid.uuid4(), secrets.token_bytes(size_bits // 8)) for _ in range(request.number)]
            erased_at = self._clock() + self.limits.key_lifetime_seconds
            waiting |= {key.key_id: _Waiting(key.key, erased_at) for key in keys}
        return keys

    def deliver(self, pair: Pair, key_ids: Sequence[uuid.UUID]) -> list[QkdKey]:
        """Give the slave its keys and erase them; all of them or, where one is missing, none.

        Raises `KeyRefused`: a key that never was, was fetched already or is too old looks the same.
        """
        with self._lock:
            waiting = self._of(pair)
            missing = [key_id for key_id in key_ids if key_id not in waiting]
            if missing:
                message = "one or more keys specified are not found on KME"
                raise KeyRefused(HTTPStatus.BAD_REQUEST, message, key_ID=str(missing[0]))
            return [QkdKey(key_id, waiting.pop(key_id).key) for key_id in key_ids]

    def _of(self, pair: Pair) -> dict[uuid.UUID, _Waiting]:
        """Return the pair's waiting keys, without those whose time is over."""
        now, waiting = self._clock(), self._waiting.setdefault(pair, {})
        for key_id in [key_id for key_id, key in waiting.items() if key.erased_at <= now]:
            del waiting[key_id]
        return waiting

    def _check(self, number: int, size_bits: int) -> None:
        limits = self.limits
        if not 1 <= number <= limits.max_key_per_request:
            bounds = f"1 to {limits.max_key_per_request}"
            raise KeyRefused(HTTPStatus.BAD_REQUEST, f"number must be {bounds}", number=str(number))
        if size_bits % 8:
            raise KeyRefused(HTTPStatus.BAD_REQUEST, "size shall be a multiple of 8", size=str(size_bits))
        if not limits.min_key_size_bits <= size_bits <= limits.max_key_size_bits:
            bounds = f"{limits.min_key_size_bits} to {limits.max_key_size_bits}"
            raise KeyRefused(HTTPStatus.BAD_REQUEST, f"size must be {bounds}", size=str(size_bits))
