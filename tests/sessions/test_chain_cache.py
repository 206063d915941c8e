"""Unwrapped chains in memory: found by the row's own value alone, and gone after thirty seconds."""

import uuid

import pytest

from qflare_protocol.epochs import GRACE_SECONDS, EpochChain
from sessions.chain_cache import MOST_SESSIONS, ChainCache
from sessions.models import Session
from sessions.services import load_chain, store_chain
from tests.people import Person

CHAIN = EpochChain(7, b"c" * 32, b"r" * 32)


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> ChainCache:
    return ChainCache(clock)


def test_a_chain_is_found_by_its_wrapped_form_alone(cache: ChainCache) -> None:
    session = uuid.uuid4()
    cache.put(session, b"wrapped", CHAIN)
    assert cache.get(session, b"wrapped") is CHAIN
    assert cache.get(session, b"wrapped anew") is None
    assert cache.get(uuid.uuid4(), b"wrapped") is None


def test_a_session_has_one_chain(cache: ChainCache) -> None:
    session = uuid.uuid4()
    cache.put(session, b"first", CHAIN)
    cache.put(session, b"second", CHAIN)
    assert cache.get(session, b"first") is None
    assert repr(cache) == "ChainCache(1 sessions)"


def test_a_chain_goes_after_thirty_seconds(cache: ChainCache, clock: Clock) -> None:
    session = uuid.uuid4()
    cache.put(session, b"wrapped", CHAIN)
    clock.now = GRACE_SECONDS - 0.1
    assert cache.get(session, b"wrapped") is CHAIN
    clock.now = GRACE_SECONDS
    assert cache.get(session, b"wrapped") is None
    assert repr(cache) == "ChainCache(0 sessions)"


def test_a_chain_goes_though_nobody_asks(cache: ChainCache, clock: Clock) -> None:
    cache.put(uuid.uuid4(), b"wrapped", CHAIN)
    clock.now = GRACE_SECONDS
    cache._clean()
    assert repr(cache) == "ChainCache(0 sessions)"
    assert cache._cleaner is None


def test_the_number_of_sessions_is_bounded(cache: ChainCache) -> None:
    for _ in range(MOST_SESSIONS + 5):
        cache.put(uuid.uuid4(), b"wrapped", CHAIN)
    assert repr(cache) == f"ChainCache({MOST_SESSIONS} sessions)"


def test_what_another_process_changed_is_read_from_the_row(alice: Person) -> None:
    alice.session().post("/api/work", {})
    row = Session.objects.get()
    assert load_chain(row) == load_chain(row)
    elsewhere = Session.objects.get()
    store_chain(elsewhere, load_chain(row).advance(row.epoch + 1, now=0))
    elsewhere.save()
    assert load_chain(Session.objects.get()).epoch == row.epoch + 1
    assert load_chain(row).epoch == row.epoch
