"""Rate-limit counters in Redis: one message counts, and counts are right between threads."""

import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from qflare_site.redis_counters import RedisCounterCache
from qflare_site.stores import redis_caches

pytestmark = pytest.mark.skipif(not os.environ.get("REDIS_URL"), reason="needs a Redis")


@pytest.fixture
def counters() -> Iterator[RedisCounterCache]:
    """Counters of this test's own."""
    options = redis_caches(os.environ["REDIS_URL"], f"qflare-test-{uuid.uuid4()}")["ratelimit"]
    made = RedisCounterCache(options["LOCATION"], {"OPTIONS": options["OPTIONS"], "KEY_PREFIX": options["KEY_PREFIX"]})
    yield made
    made.delete_pattern("*")


def counted(counters: RedisCounterCache, key: str = "caller") -> int:
    """Count once as django-ratelimit does."""
    return 1 if counters.add(key, 1, 60) else counters.incr(key)


def test_requests_are_counted_one_after_the_other(counters: RedisCounterCache) -> None:
    assert [counted(counters) for _ in range(4)] == [1, 2, 3, 4]
    assert counters.get("caller") == 4


def test_callers_are_counted_apart(counters: RedisCounterCache) -> None:
    assert [counted(counters, caller) for caller in ("one", "other", "one", "other")] == [1, 1, 2, 2]


def test_a_counter_ends_with_its_window(counters: RedisCounterCache) -> None:
    counted(counters)
    counted(counters)
    assert 0 < counters.ttl("caller") <= 60


def test_a_request_is_counted_by_one_message(counters: RedisCounterCache, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(counters)
    client, sent = counters.client.get_client(write=True), []
    execute = client.execute_command

    def note(*command: Any, **options: Any) -> Any:
        sent.append(command[0])
        return execute(*command, **options)

    monkeypatch.setattr(client, "execute_command", note)
    assert counted(counters) == 2
    assert sent == ["EVAL"]


def test_an_increment_of_its_own_counts_too(counters: RedisCounterCache) -> None:
    counted(counters)
    counted(counters)
    assert [counters.incr("caller"), counters.incr("caller", 5)] == [3, 8]
    with pytest.raises(ValueError, match="not found"):
        counters.incr("nobody")


def test_threads_that_count_at_once_lose_no_request(counters: RedisCounterCache) -> None:
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend(counted(counters) for _ in range(25))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 101))


def test_forgetting_the_counts_leaves_what_else_is_in_redis(counters: RedisCounterCache) -> None:
    client, other = counters.client.get_client(write=True), f"another-{uuid.uuid4()}"
    client.set(other, "a message", ex=60)
    counted(counters)
    counted(counters)
    counters.clear()
    assert counted(counters) == 1
    assert client.getdel(other) == b"a message"


def test_counters_out_of_reach_are_said_to_be() -> None:
    options = redis_caches("redis://127.0.0.1:1/0", "qflare-test")["ratelimit"]
    gone = RedisCounterCache(options["LOCATION"], {"OPTIONS": options["OPTIONS"]})
    with pytest.raises(RedisError):
        gone.add("caller", 1, 60)
