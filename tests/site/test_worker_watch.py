"""Whether a worker that has nothing to do leaves the same message waiting."""

import pytest

from qflare_site.worker_watch import INTERVAL_SECONDS, Deafness

SAME = {"default": b"one"}


def after(*looks: tuple[dict[str, bytes], bool]) -> float:
    deafness, seconds = Deafness(), 0.0
    for waiting, busy in looks:
        seconds = deafness.after(waiting, busy=busy)
    return seconds


def test_a_message_that_waits_for_an_idle_worker_counts_from_the_second_look() -> None:
    assert after((SAME, False)) == 0
    assert after((SAME, False), (SAME, False)) == INTERVAL_SECONDS
    assert after(*[(SAME, False)] * 7) == 6 * INTERVAL_SECONDS


@pytest.mark.parametrize(
    "between",
    [({}, False), (SAME, True), ({"default": b"another"}, False), ({"audit": b"one"}, False)],
    ids=["nothing waits", "it works", "the queue moves on", "another queue"],
)
def test_a_worker_that_works_or_whose_queue_moves_on_is_not_deaf(between: tuple[dict[str, bytes], bool]) -> None:
    assert after((SAME, False), (SAME, False), between) == 0


def test_one_queue_that_is_not_heard_is_enough() -> None:
    looks = [({"default": b"one", "audit": bytes([number])}, False) for number in range(4)]
    assert after(*looks) == 3 * INTERVAL_SECONDS
