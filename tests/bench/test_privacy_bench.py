"""The simulation behind the table of docs/differential-privacy.md, on small data; and the table that stands there."""

import numpy as np
import pytest

from bench import privacy
from bench.privacy import DELTA, Data, Images, Terms
from tests.docs.reading import rows, section
from training.privacy import epsilon_of


def images(count, seed):
    generator = np.random.default_rng(seed)
    classes = np.arange(count) % 10
    centres = np.random.default_rng(0).random((10, 12))
    pixels = centres[classes] + 0.05 * generator.random((count, 12))
    return Images(np.hstack([pixels, np.ones((count, 1))]).astype(np.float32), classes)


@pytest.fixture
def data():
    return Data("clusters", images(400, 1), images(100, 2), images(100, 3))


def test_every_device_has_the_same_number_of_images_and_none_is_given_twice(data):
    given = privacy.shares(data.training.classes, 8, np.random.default_rng(1))
    assert given.shape == (8, 50)
    assert len(np.unique(given)) == given.size


def test_classes_are_spread_unevenly(data):
    given = privacy.shares(data.training.classes, 8, np.random.default_rng(1))
    largest = [np.bincount(data.training.classes[rows_]).max() for rows_ in given]
    assert np.mean(largest) > 10


def test_each_update_counts_for_no_more_than_the_clip_norm():
    updates = np.diag([0.5, 5.0, 50.0]).astype(np.float32)
    total = privacy.private_sum(updates, Terms(3, 1, 1.0, None), np.random.default_rng(1))
    np.testing.assert_allclose(total, [0.5, 1.0, 1.0], rtol=1e-6)


def test_the_noise_is_z_times_the_clip_norm_in_each_weight():
    updates = np.zeros((2, 100_000), dtype=np.float32)
    total = privacy.private_sum(updates, Terms(2, 1, 0.5, 3.0), np.random.default_rng(1))
    assert total.std() == pytest.approx(1.5, rel=0.02)
    assert total.mean() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_all_rounds_together_spend_what_the_row_says_and_no_more(epsilon):
    for terms in privacy.choices(20, epsilon):
        spent = epsilon_of([terms.noise_multiplier] * terms.rounds, DELTA)
        assert epsilon * (1 - 1e-6) < spent <= epsilon


def test_the_same_seed_gives_the_same_model_and_another_another(data):
    terms = Terms(4, 3, 1.0, 1.0)
    first, again, other = (privacy.train(data, terms, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_learns_and_noise_costs(data):
    plain = privacy.accuracy(privacy.train(data, Terms(8, 15, 3.0, None), 1), data.test)
    noised = privacy.accuracy(privacy.train(data, Terms(8, 15, 3.0, 50.0), 1), data.test)
    assert plain > 0.9
    assert noised < plain - 0.2


def test_without_mnist_there_are_the_digits(tmp_path):
    digits = privacy.load_data(tmp_path / "absent")
    assert "digits" in digits.name
    assert len(digits.test.pixels) == 360
    assert digits.training.pixels.max() <= 1


def test_the_table_goes_between_its_marks(tmp_path, data, monkeypatch):
    monkeypatch.setattr(privacy, "ROUNDS", (2,))
    monkeypatch.setattr(privacy, "CLIP_NORMS", (1.0,))
    document = tmp_path / "page.md"
    document.write_text(f"before\n{privacy.BEGIN}old\n{privacy.END}after\n")
    made = privacy.table(data, (4, 8), (8.0, None))
    privacy.write(document, made)
    text = document.read_text()
    assert text == f"before\n{privacy.BEGIN}\n{made}\n{privacy.END}after\n"
    assert [row[0] for row in rows(text)] == ["epsilon 8", "no noise"]


def test_the_table_of_the_docs_has_every_cell():
    stated = rows(section("What it costs", privacy.DOCUMENT.read_text(encoding="utf-8")))
    assert [row[0] for row in stated] == ["epsilon 1", "epsilon 3", "epsilon 8", "no noise"]
    assert all(len(row) == 1 + len(privacy.DEVICES) and all("±" in entry for entry in row[1:]) for row in stated)
