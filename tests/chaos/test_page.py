"""The page of a chaos run says what was killed where, how long it took, and what was never met."""

from pathlib import Path

from tests.chaos.page import Outcome, add_to, outcomes_in, page
from tests.chaos.stage import NOBODY

TABLE, RANDOM = "One sealed process a round", "2 random kills in one run, seed 7"
OUTCOMES = [
    Outcome(TABLE, "open", NOBODY, True, 3.04, 1),
    Outcome(TABLE, "open", "redis", True, 9.5, 2),
    Outcome(TABLE, "publishing", "redis", False, 1.0, 1),
    Outcome(RANDOM, "open", "web", True, 4.0, 1),
    Outcome(RANDOM, "open", "web", True, 6.0, 3),
]


def test_every_step_has_its_row_and_every_victim_its_column() -> None:
    rows = page(OUTCOMES).splitlines()
    assert "| step | nobody | redis |" in rows
    assert "| open | 3.0 | 9.5 |" in rows
    assert "| publishing |  | not met |" in rows


def test_random_kills_are_told_by_their_victims() -> None:
    assert "| web | 2 | 5.0 | 6.0 | 3 |" in page(OUTCOMES).splitlines()


def test_only_kills_that_found_somebody_are_counted() -> None:
    assert "**3 kills, all survived.**" in page(OUTCOMES)


def test_a_case_that_was_run_again_is_shown_as_it_went_last() -> None:
    again = [*OUTCOMES, Outcome(TABLE, "publishing", "redis", True, 2.0, 1)]
    assert "| publishing |  | 2.0 |" in page(again).splitlines()


def test_outcomes_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    for outcome in OUTCOMES:
        add_to(tmp_path / "results", outcome)
    assert outcomes_in(tmp_path / "results") == OUTCOMES
