"""Drift of a device's scores: what the statistic is, whom it names, and that noise and convergence name nobody."""

import math
import random
import statistics
import uuid

import pytest

from monitor.models import Incident
from monitor.rules.drift import LEAST_EARLIER, LEAST_SPREAD, RECENT, drift, drifts_of
from tests.factories import make_completed_round, make_device, make_federation
from tests.monitor.conftest import Scene
from training.models import Participation
from training.services.rounds import event_payload

THRESHOLD = 8
FLEET = [uuid.UUID(int=number) for number in range(8)]


def rounds(count, seed, score):
    """Give parts of so many rounds; `score(number, index, noise)` is a device's cosine and norm ratio."""
    noise = random.Random(seed)
    for number in range(count):
        for index, device_id in enumerate(FLEET):
            cosine, norm_ratio = score(number, index, noise)
            yield number, device_id, {"cosine": cosine, "norm_ratio": norm_ratio, "norm": 1.0, "weight": 0.1}


def honest(number, index, noise):
    """Converging training: cosines fall from 0.9 to 0.5 for everybody, with noise, and each device has its place."""
    falling = 0.5 + 0.4 * math.exp(-number / 10)
    return falling - 0.02 * index + noise.gauss(0, 0.05), math.exp(noise.gauss(0, 0.15))


def reached(parts):
    found = drifts_of(parts)
    return {device_id for device_id, drifts in found.items() if max(drifts.values(), default=0) >= THRESHOLD}


def test_the_statistic_is_the_one_of_its_docstring():
    earlier, recent = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [2.0, 2.1, 1.9, 2.0]
    spread = 1.4826 * statistics.median(abs(x - 0.4) for x in earlier)
    expected = (2.0 - 0.4) / (spread * math.sqrt(1 / 4 + math.pi / 18))
    assert drift([*earlier, *recent], 0.01) == pytest.approx(expected)


def test_too_few_earlier_rounds_say_nothing():
    assert drift([0.0] * (LEAST_EARLIER + RECENT - 1), 0.1) is None
    assert drift([0.0] * (LEAST_EARLIER + RECENT), 0.1) == 0


def test_quiet_scores_are_not_made_loud_by_a_spread_of_zero():
    assert drift([0.5] * 20 + [0.49] * 4, LEAST_SPREAD["cosine"]) == pytest.approx(-0.01 / 0.02 / 0.573, rel=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_convergence_name_nobody(seed):
    for length in (12, 20, 40):
        assert reached(rounds(length, seed, honest)) == set()


@pytest.mark.parametrize("seed", range(5))
def test_a_device_that_turns_away_is_named_and_nobody_else(seed):
    def turning(number, index, noise):
        cosine, ratio = honest(number, index, noise)
        return (cosine - 0.5 if index == 3 and number >= 26 else cosine), ratio

    assert reached(rounds(30, seed, turning)) == {FLEET[3]}


@pytest.mark.parametrize("factor", [6.0, 1 / 6])
def test_a_device_whose_updates_grow_or_shrink_is_named(factor):
    def scaling(number, index, noise):
        cosine, ratio = honest(number, index, noise)
        return cosine, (ratio * factor if index == 5 and number >= 26 else ratio)

    assert reached(rounds(30, 1, scaling)) == {FLEET[5]}


def test_rounds_without_scores_say_nothing():
    assert drifts_of([]) == {}
    parts = [(number, device_id, {"cosine": None, "norm_ratio": 0.0}) for number in range(20) for device_id in FLEET]
    assert reached(parts) == set()


@pytest.mark.django_db
def test_the_round_that_shows_it_opens_the_incident_and_says_by_how_much(scene: Scene):
    for name in ("edge-1", "edge-2", "edge-3"):
        make_device(name)
    federation = make_federation()
    for number in range(LEAST_EARLIER + RECENT):
        assert scene.look() == []
        round_ = make_completed_round(federation, rejected="nobody", accuracy=0.5, now=scene.later(hours=1).now)
        federation.refresh_from_db()
        for part in Participation.objects.filter(round=round_).select_related("device"):
            turned = part.device.name == "edge-2" and number >= LEAST_EARLIER
            part.scores = {"norm": 1.0, "norm_ratio": 1.0, "cosine": 0.2 if turned else 0.9, "weight": 0.3}
            part.save()
        counts = {"version": number, "accepted": 3, "rejected": 0}
        scene.event("round.completed", actor="system", **event_payload(round_), **counts)
    (incident,) = scene.look()
    assert (incident.rule, str(incident.subject)) == ("score-drift", "Device edge-2")
    assert "cosine by 52.4 standard errors" in incident.timeline.first().text
    assert Incident.objects.count() == 1
