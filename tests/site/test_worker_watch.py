"""Whether a worker that has nothing to do leaves messages waiting."""

import pytest

from qflare_site.worker_watch import INTERVAL_SECONDS, Idleness


def after(*looks: tuple[int, bool, int]) -> float:
    idleness, seconds = Idleness(), 0.0
    for waiting, busy, taken in looks:
        seconds = idleness.after(waiting=waiting, busy=busy, taken=taken)
    return seconds


def test_messages_that_wait_for_an_idle_worker_count_from_the_second_look() -> None:
    assert after((1, False, 7)) == 0
    assert after((1, False, 7), (1, False, 7)) == INTERVAL_SECONDS
    assert after(*[(2, False, 7)] * 7) == 6 * INTERVAL_SECONDS


@pytest.mark.parametrize(
    "between", [(0, False, 7), (3, True, 7), (3, False, 8)], ids=["nothing waits", "it works", "it took one"]
)
def test_a_worker_that_works_or_is_waited_for_by_nobody_is_not_deaf(between: tuple[int, bool, int]) -> None:
    assert after((3, False, 7), (3, False, 7), between) == 0
