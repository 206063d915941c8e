"""The replayed trace, on a short day: each rule fires once for its attack, and none on clean traffic."""

from collections import Counter

import pytest

from bench.attack_trace.attacks import ATTACKS
from bench.attack_trace.replay import Report, replay
from monitor.rules import RULES


def test_every_rule_has_its_attack():
    assert set(ATTACKS) == set(RULES)


@pytest.mark.django_db
def test_each_rule_fires_once_for_its_attack_and_none_on_a_clean_day():
    report = replay(hours=3)
    assert report.clean == Counter()
    assert report.passed, report.table()


@pytest.mark.parametrize(
    ("clean", "attacks"),
    [
        (Counter({"replays": 1}), {rule: Counter({rule: 1}) for rule in RULES}),
        (Counter(), {rule: Counter({rule: 2}) for rule in RULES}),
        (Counter(), {rule: Counter({rule: 1, "replays": 1}) for rule in RULES}),
        (Counter(), {}),
    ],
    ids=["a false alarm", "fired twice", "fired with another", "not replayed"],
)
def test_a_report_fails_for_anything_else(clean, attacks):
    report = Report(24, 1000, clean, attacks)
    assert not report.passed
    assert report.table().endswith("FAILED")
