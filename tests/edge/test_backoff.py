"""Retry: patient with a server that is away, at once done with one that refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.backoff import Backoff, retrying
from edge_client.http import ServerUnreachable
from qflare_protocol.errors import Refusal


class Server:
    """Fails so many times, then answers."""

    def __init__(self, failures, retry_after=0.0):
        self.failures, self.retry_after, self.calls = failures, retry_after, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise ServerUnreachable("away", self.retry_after)
        return "answer"


@given(st.integers(1, 10**6), st.floats(0, 3600))
def test_a_wait_is_bounded_and_never_shorter_than_asked_for(attempt, at_least):
    seconds = Backoff(0.5, 60.0).wait_seconds(attempt, at_least)
    assert at_least <= seconds <= at_least + min(60.0, 0.5 * 2 ** min(attempt, 16))


def test_devices_do_not_return_all_at_once():
    assert len({Backoff().wait_seconds(10) for _ in range(50)}) > 40


def test_a_server_that_comes_back_is_waited_for():
    server, slept = Server(3, retry_after=7.0), []
    assert retrying(server, backoff=Backoff(), sleep=slept.append) == "answer"
    assert (server.calls, len(slept)) == (4, 3)
    assert min(slept) >= 7.0


def test_the_attempts_are_counted():
    server, slept = Server(9), []
    with pytest.raises(ServerUnreachable):
        retrying(server, backoff=Backoff(attempts=3), sleep=slept.append)
    assert (server.calls, len(slept)) == (3, 2)


def test_a_refusal_ends_it_at_once():
    calls = []

    def refuse():
        calls.append(1)
        raise Refusal("not-invited", "No.")

    with pytest.raises(Refusal):
        retrying(refuse, sleep=lambda _: pytest.fail("slept after a refusal"))
    assert calls == [1]
