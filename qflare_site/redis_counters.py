"""The services profile's rate-limit counters: one message to Redis for each request that is counted."""

import threading
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django_redis.cache import RedisCache

FIRST = 1
_ADD_OR_COUNT = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 0 end
return redis.call('INCR', KEYS[1])
"""


class RedisCounterCache(RedisCache):
    """Counts as django-ratelimit asks for it, by `add` of a first count and, where there is one, `incr`.

    `add` does both at once on the server, and the `incr` that follows it in this thread returns what that gave.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._counted = threading.local()

    def add(self, key: str, value: int, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Start a counter at 1, or count up one that is there; return whether it was started.

        Raises `RedisError`. Any other first value is added and never counted up.
        """
        if value != FIRST or not isinstance(timeout, int) or timeout <= 0:
            return bool(super().add(key, value, timeout=timeout, version=version))
        client = self.client.get_client(write=True)
        count = int(client.eval(_ADD_OR_COUNT, 1, self.client.make_key(key, version=version), FIRST, timeout))
        self._counted.last = (key, version, count) if count else None
        return count == 0

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Return the count that `add` has made of this counter, or else count up. Raises `ValueError`, `RedisError`."""
        last, self._counted.last = getattr(self._counted, "last", None), None
        if delta == 1 and last is not None and last[:2] == (key, version):
            return int(last[2])
        return int(super().incr(key, delta, version=version))

    def clear(self) -> None:
        """Forget every count of this site, and nothing else: the same Redis may hold the broker's messages."""
        self.delete_pattern("*")
