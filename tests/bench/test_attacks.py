"""The attacks are what their papers define."""

import numpy as np
import pytest

from bench.attacks import attacks
from bench.attacks.attacks import ATTACKS, BY_NAME, View, squared_distances
from bench.attacks.data import Images

DEVICES, ATTACKERS, SIZE = 20, 4, 50


@pytest.fixture
def view():
    generator = np.random.default_rng(7)
    updates = generator.normal(0.3, 1.0, (DEVICES, SIZE)).astype(np.float32)
    return View(updates[:-ATTACKERS], updates[-ATTACKERS:], generator)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_sends_a_finite_update_for_every_attacker(attack, view):
    sent = attack.new_craft()(view)
    assert sent.shape == view.own.shape
    assert sent.dtype == np.float32
    assert np.isfinite(sent).all()


def test_alie_takes_the_deviations_that_the_paper_tabulates():
    # Baruch et al., section 3.3: 50 workers of which 24 corrupted, s = 2, Phi^-1(24/26) = 1.43
    assert attacks.alie_z(50, 24) == pytest.approx(1.4260, abs=1e-4)
    # n = 20, f = 4: s = 7, Phi^-1(9/16)
    assert attacks.alie_z(20, 4) == pytest.approx(0.1573, abs=1e-4)


def test_alie_sends_the_mean_less_z_deviations(view):
    sent = attacks.alie(view, z=1.5)
    assert sent[0] == pytest.approx(view.honest.mean(axis=0) - 1.5 * view.honest.std(axis=0), abs=1e-5)
    assert (sent == sent[0]).all()


def test_inner_product_manipulation_turns_the_mean_of_all_when_epsilon_is_large_enough(view):
    honest = view.honest.mean(axis=0)
    for epsilon, turned in ((2.0, False), (10.0, True)):  # it turns above (n - f) / f = 4
        together = np.concatenate([view.honest, attacks.inner_product(epsilon)(view)]).mean(axis=0)
        assert (together @ honest < 0) == turned


@pytest.mark.parametrize("direction", [attacks.deviation_direction, attacks.against_direction])
def test_min_max_goes_exactly_as_far_as_its_constraint_lets_it(view, direction):
    sent = attacks.min_max(direction)(view)[0]
    farthest = np.linalg.norm(view.honest - sent, axis=1).max()
    assert farthest == pytest.approx(np.sqrt(squared_distances(view.honest).max()), rel=1e-4)
    assert (sent - view.honest.mean(axis=0)) @ direction(view.honest) > 0


@pytest.mark.parametrize("direction", [attacks.deviation_direction, attacks.against_direction])
def test_min_sum_goes_exactly_as_far_as_its_constraint_lets_it(view, direction):
    sent = attacks.min_sum(direction)(view)[0]
    total = np.square(np.linalg.norm(view.honest - sent, axis=1)).sum()
    assert total == pytest.approx(squared_distances(view.honest).sum(axis=1).max(), rel=1e-4)


def test_directions_have_length_one_and_point_against(view):
    assert np.linalg.norm(attacks.deviation_direction(view.honest)) == pytest.approx(1)
    against = attacks.against_direction(view.honest)
    assert np.linalg.norm(against) == pytest.approx(1)
    assert against @ view.honest.mean(axis=0) < 0


def test_mimic_copies_one_honest_device_and_stays_with_it():
    generator = np.random.default_rng(3)
    craft, copied = attacks.Mimic(warmup_rounds=5), []
    for _ in range(12):
        honest = generator.normal(0, 0.1, (16, SIZE)).astype(np.float32)
        honest[5, 0] += 10  # the device that differs most
        honest[:, 1] += 1
        sent = craft(View(honest, np.zeros((4, SIZE), np.float32), generator))
        matches = np.flatnonzero((honest == sent[0]).all(axis=1))
        assert len(matches) == 1
        copied.append(int(matches[0]))
    assert len(set(copied[4:])) == 1


def test_mimic_finds_the_direction_of_largest_variance():
    generator = np.random.default_rng(4)
    offsets = np.linspace(-5, 5, 16)
    craft = attacks.Mimic()
    for _ in range(10):
        honest = generator.normal(0, 0.1, (16, SIZE)).astype(np.float32)
        honest[:, 2] += offsets.astype(np.float32)
        sent = craft(View(honest, np.zeros((4, SIZE), np.float32), generator))
    assert abs(craft._direction[2]) > 0.99
    assert abs(sent[0, 2]) > 4


def test_replacement_makes_a_mean_become_the_attackers_model():
    own = np.full((2, SIZE), 0.5, np.float32)
    view = View(np.zeros((8, SIZE), np.float32), own, np.random.default_rng(0))
    sent = attacks.replacement(view)
    assert np.concatenate([view.honest, sent]).mean(axis=0) == pytest.approx(own[0])


def test_the_constrained_backdoor_is_as_long_as_the_median_honest_update(view):
    median = np.median(np.linalg.norm(view.honest, axis=1))
    assert np.linalg.norm(attacks.constrained(view), axis=1) == pytest.approx([median] * ATTACKERS, rel=1e-5)


def test_gaussian_noise_is_ten_times_as_long_as_an_honest_update(view):
    median = np.median(np.linalg.norm(view.honest, axis=1))
    assert np.linalg.norm(attacks.gaussian(view), axis=1).mean() == pytest.approx(10 * median, rel=0.2)


def images(count):
    generator = np.random.default_rng(1)
    return Images(
        generator.integers(0, 200, (count, 64)).astype(np.uint8), generator.integers(0, 10, count).astype(np.int64)
    )


def test_flipped_labels_are_nine_less_the_label():
    clean = images(30)
    assert attacks.flip_labels(clean, np.random.default_rng(0)).labels.tolist() == (9 - clean.labels).tolist()


def test_a_backdoor_marks_about_half_of_the_images_and_leaves_the_original_alone():
    clean = images(400)
    before = clean.pixels.copy()
    poisoned = attacks.plant_backdoor(clean, np.random.default_rng(0))
    marked = (poisoned.pixels.reshape(-1, 8, 8)[:, -2:, -2:] == 255).all(axis=(1, 2))
    assert 0.4 < marked.mean() < 0.6
    assert (poisoned.labels[marked] == attacks.BACKDOOR_TARGET).all()
    assert (poisoned.labels[~marked] == clean.labels[~marked]).all()
    assert (clean.pixels == before).all()


def test_every_family_that_the_issue_names_is_there():
    assert {attack.family for attack in ATTACKS} == {
        "sign flip", "label flip", "Gaussian", "ALIE", "inner product", "mimic", "min-max", "min-sum", "replacement",
        "constrained backdoor",
    }  # fmt: skip
    assert len(BY_NAME) == len(ATTACKS) + 1
