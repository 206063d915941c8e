"""The embedded profile's counters: atomic, expiring, integers only."""

import multiprocessing

import pytest
import time_machine

from qflare_site.ratelimit_cache import CounterCache


@pytest.fixture
def cache(tmp_path):
    return CounterCache(str(tmp_path / "counters.sqlite3"), {})


def count_up(location, times):
    own = CounterCache(location, {})
    for _ in range(times):
        own.incr("key")


def add_once(location, results):
    results.put(CounterCache(location, {}).add("key", 1, 60))


def test_a_counter_is_added_once(cache):
    assert cache.add("key", 1, 60) is True
    assert cache.add("key", 7, 60) is False
    assert cache.get("key") == 1


def test_incrementing_returns_the_new_value(cache):
    cache.add("key", 1, 60)
    assert cache.incr("key") == 2
    assert cache.incr("key", 5) == 7
    assert cache.decr("key", 3) == 4


def test_an_absent_counter_cannot_be_incremented(cache):
    with pytest.raises(ValueError, match="no live counter"):
        cache.incr("key")


def test_a_counter_expires(cache):
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        cache.add("key", 1, 60)
        clock.shift(59)
        assert cache.get("key") == 1
        clock.shift(1)
        assert cache.get("key", "gone") == "gone"
        with pytest.raises(ValueError, match="no live counter"):
            cache.incr("key")
        assert cache.add("key", 3, 60) is True
        assert cache.get("key") == 3


def test_a_counter_without_timeout_stays(cache):
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        cache.set("key", 1, None)
        clock.shift(10**9)
        assert cache.get("key") == 1


def test_touching_prolongs_a_live_counter_only(cache):
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        cache.set("key", 1, 10)
        assert cache.touch("key", 100) is True
        clock.shift(50)
        assert cache.get("key") == 1
        assert cache.touch("other", 100) is False


def test_deleting_and_clearing(cache):
    cache.set("a", 1)
    cache.set("b", 2)
    assert cache.delete("a") is True
    assert cache.delete("a") is False
    cache.clear()
    assert cache.get("b") is None


@pytest.mark.parametrize("value", ["1", 1.5, True, None, b"1", object()])
def test_anything_but_an_integer_is_refused(cache, value):
    with pytest.raises(TypeError):
        cache.set("key", value)
    with pytest.raises(TypeError):
        cache.add("key", value)


def test_processes_count_together_without_losing_one(cache, tmp_path):
    location = str(tmp_path / "counters.sqlite3")
    cache.add("key", 0, 600)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count_up, args=(location, 100)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert cache.get("key") == 400


def test_of_processes_that_add_at_once_one_wins(tmp_path):
    location = str(tmp_path / "counters.sqlite3")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=add_once, args=(location, results)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(outcomes) == [False, False, False, True]


def test_expired_rows_do_not_pile_up(cache):
    import sqlite3
    from contextlib import closing

    with time_machine.travel(1_800_000_000, tick=False) as clock:
        for number in range(20):
            cache.add(f"key-{number}", 1, 10)
        clock.shift(11)
        cache.add("last", 1, 10)
    with closing(sqlite3.connect(cache._file)) as database:
        assert database.execute("SELECT count(*) FROM counter").fetchone() == (1,)
