"""The page of the database's figures says what was measured, and what missed its target."""

import pytest

from bench.database.page import Figure, page
from bench.measuring import Stopwatch


@pytest.mark.parametrize(
    ("median", "target", "verdict"), [(0.001, 0.001, "met"), (0.0011, 0.001, "missed"), (9.0, None, "")]
)
def test_a_figure_is_held_to_its_target_by_its_median(median: float, target: float | None, verdict: str) -> None:
    assert Figure("lookup", median, 1.0, 0.5, target).verdict == verdict


def test_the_page_has_a_row_for_each_figure_in_milliseconds() -> None:
    text = page([Figure("lookup", 0.0015, 0.002, 0.0005, 0.001)], "PostgreSQL 15.2", 7, 3)
    assert "| lookup | 1.50 | 2.00 | 0.50 | 1 | missed |\n" in text
    assert "7 repetitions in turn, 3 of the clean-ups; PostgreSQL 15.2" in text


def test_a_percentile_is_the_run_that_so_many_stayed_within() -> None:
    watch = Stopwatch()
    for milliseconds in range(1, 101):
        watch.note("case", milliseconds / 1000)
    assert watch.percentiles(95) == {"case": 0.095}
    assert watch.percentiles(0) == {"case": 0.001}
