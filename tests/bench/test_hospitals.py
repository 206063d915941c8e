"""The hospitals' data are read as the page says, the accountant is exact, and the study's parts do what they claim."""

import math

import numpy as np
import pytest

from bench.attacks.training import Network
from bench.hospitals import __main__ as command
from bench.hospitals import measures, study
from edge_client.examples import heart_disease_data as data

NETWORK = Network(data.FEATURES, 0, 2)
ROWS = """\
63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0
32,0,4,0,0,?,?,127,1,.7,?,?,?,3
"""


@pytest.fixture
def patients(tmp_path):
    (tmp_path / "processed.va.data").write_text(ROWS)
    return data.read_hospital(tmp_path, "va")


def test_any_narrowing_counts_as_ill(patients):
    assert patients.labels.tolist() == [0.0, 1.0]
    assert patients.features.shape == (2, data.FEATURES)
    assert np.isfinite(patients.features).all()


def test_a_measure_is_standardised_by_public_constants_and_a_missing_one_has_an_indicator(patients):
    measured = dict(
        zip(data.MEASURES, patients.features[:, : 2 * len(data.MEASURES)].reshape(2, -1, 2)[1], strict=True)
    )
    assert measured["age"].tolist() == pytest.approx([(32 - 54) / 9, 0])
    for absent in ("ca", "chol", "trestbps"):  # a question mark, and zeros of what cannot be zero
        assert measured[absent].tolist() == [0, 1]
    assert measured["oldpeak"][1] == 0


def test_yes_no_and_categories_leave_what_is_missing_in_the_middle(patients):
    first, second = patients.features[:, 2 * len(data.MEASURES) :].tolist()
    assert first[:3] == [1, 1, -1]
    assert second[:3] == [-1, 0, 1]
    assert first[3:] == [1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert second[3:] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "processed.va.data").write_text("1,2,3\n")
    with pytest.raises(ValueError, match="14 columns"):
        data.read_hospital(tmp_path, "va")


def test_a_split_keeps_the_share_of_the_ill_and_loses_nobody():
    features = np.arange(90, dtype=np.float32)[:, None]
    whole = data.Patients(features, (features[:, 0] < 30).astype(np.float32))
    training, held_out = data.split(whole, 1)
    assert (len(training), len(held_out)) == (60, 30)
    assert (training.labels.sum(), held_out.labels.sum()) == (20, 10)
    assert sorted(np.concatenate([training.features, held_out.features])[:, 0]) == list(range(90))
    again = data.split(whole, 1)[1]
    assert (again.features == held_out.features).all()
    assert (data.split(whole, 2)[1].features != held_out.features).any()


@pytest.mark.parametrize("epsilon", [3.0, math.inf])
def test_a_private_step_clips_every_patient_and_adds_the_noise_that_the_budget_asks_for(epsilon):
    generator, network = np.random.default_rng(0), NETWORK
    features = generator.normal(size=(50, data.FEATURES)).astype(np.float32) * 100
    patients = data.Patients(features, (features[:, 0] > 0).astype(np.float32))
    privacy, model = study.Privacy(epsilon), np.zeros(network.size, np.float32)
    changes = [study.train(network, model, patients, privacy, np.random.default_rng(seed)) for seed in range(200)]
    scale = study.PRIVATE_LEARNING_RATE * study.CLIP
    assert np.linalg.norm(np.mean(changes, axis=0)) < scale * 1.3
    assert np.std(changes, axis=0).mean() == pytest.approx(scale * privacy.multiplier / 50, rel=0.1, abs=1e-6)


def test_each_hospital_alone_together_and_pooled_learn_what_can_be_learnt():
    generator = np.random.default_rng(1)
    hospitals = []
    for _ in range(4):
        features = generator.normal(size=(60, data.FEATURES)).astype(np.float32)
        hospitals.append(data.Patients(features, (features[:, 0] > 0).astype(np.float32)))
    at = command.Split.of(hospitals, 0)
    for method in (command.alone(), command.federated(), command.pooled()):
        *by_hospital, everybody, area = command.judge(NETWORK, method(NETWORK, at), at.held_out)
        assert len(by_hospital) == 4
        assert everybody > 0.7
        assert area > 0.8


def test_the_area_under_the_curve_counts_pairs():
    scores, labels = np.array([0.9, 0.4, 0.4, 0.1], np.float32), np.array([1, 1, 0, 0], np.float32)
    assert measures.area_under_curve(scores, labels) == pytest.approx(3.5 / 4)
    assert measures.accuracy(scores, labels) == pytest.approx(0.75)
