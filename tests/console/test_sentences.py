"""Rounds in plain sentences."""

import pytest

from qflare_site.console.sentences import in_words, round_sentence


@pytest.mark.parametrize(
    ("state", "rejected", "sentence"),
    [
        ("pending", {}, "Round 7 is being prepared for 5 devices."),
        ("open", {}, "Round 7 is open, 4 of 5 devices returned so far."),
        ("aggregating", {}, "Round 7 is being aggregated, 4 of 5 devices returned."),
        ("completed", {}, "Round 7 aggregated, 4 of 5 devices returned, none rejected."),
        ("completed", {"norm": 1}, "Round 7 aggregated, 4 of 5 devices returned, 1 rejected: norm."),
        (
            "completed",
            {"norm-above-bound": 2, "cosine-below-minimum": 1},
            "Round 7 aggregated, 4 of 5 devices returned, 3 rejected: 1 cosine below minimum, 2 norm above bound.",
        ),
        ("failed", {}, "Round 7 failed, 4 of 5 devices returned: too few."),
        ("cancelled", {}, "Round 7 was cancelled: too few."),
    ],
)
def test_a_round_is_told_in_one_sentence(state, rejected, sentence):
    assert round_sentence(7, state, invited=5, returned=4, rejected=rejected, end_reason="too few.") == sentence


def test_one_device_is_no_devices():
    assert round_sentence(1, "pending", invited=1, returned=0, rejected={}) == "Round 1 is being prepared for 1 device."


def test_a_rejection_without_a_reason_says_so():
    assert in_words("") == "no reason given"
