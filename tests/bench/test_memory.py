"""The page of memory over many rounds: the slope is that of the second half, and every sample counts for it."""

import pytest

from bench.memory.page import KINDS, MIB, Sample, page, slope


def samples(held: dict[int, float]) -> list[Sample]:
    """Return samples in which every figure of the one process is the same number of MiB."""
    return [
        Sample(rounds, float(rounds), {"web": round(mib * MIB)}, {"web": round(mib * MIB)}, {"web": round(mib * MIB)})
        for rounds, mib in held.items()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_growth_that_has_ended_is_no_slope(kind: str) -> None:
    grown = samples({1: 100, 10: 150, 20: 180, 30: 180, 40: 180})
    assert slope(grown, "web", KINDS[kind]) == pytest.approx(0)


def test_what_each_round_leaves_behind_is_its_slope_for_a_hundred() -> None:
    leaking = samples({rounds: 100 + 0.3 * rounds for rounds in range(0, 201, 5)})
    assert slope(leaking, "web", KINDS["PSS"]) == pytest.approx(30, rel=1e-3)


def test_one_sample_has_no_slope() -> None:
    assert slope(samples({5: 100}), "web", KINDS["PSS"]) == 0


def test_the_page_shows_the_first_and_the_last_sample_and_the_slope() -> None:
    text = page(samples({rounds: 100 + rounds / 10 for rounds in range(0, 201, 5)}), devices=4, profile="embedded")
    assert text.count("| 0 | 100.0 |") == text.count("| 200 | 120.0 |") == len(KINDS)
    assert text.count("| **per 100 rounds, second half** | +10.0 |") == len(KINDS)
    assert "run 200 rounds" in text
