"""The example on hospitals: logistic regression that learns, repeats itself and leaves its input alone."""

import numpy as np
import pytest

from edge_client.examples.heart_disease_data import FEATURES
from edge_client.trainer import load_trainer


@pytest.fixture
def trainer(tmp_path):
    """Return a hospital where the older half is ill."""
    ages = range(30, 90)
    rows = [f"{age},1,4,130,?,0,0,{200 - age},0,1,?,?,?,{int(age >= 60)}" for age in ages]
    (tmp_path / "processed.va.data").write_text("\n".join(rows))
    options = {"data": str(tmp_path), "hospital": "va"}
    return load_trainer("edge_client.examples.heart_disease:HeartDiseaseTrainer", {"local_steps": 10}, options)


def test_it_learns_and_leaves_its_input_alone(trainer):
    first = model = trainer.initial_model()
    assert trainer.evaluate(model)["loss"] == pytest.approx(np.log(2))
    for number in range(30):
        outcome = trainer.train(model, number)
        model = outcome.model
    assert outcome.sample_count == 40
    assert trainer.evaluate(model)["accuracy"] > 0.85
    assert outcome.metrics["loss"] < 0.5
    assert not first["weights"].any()


def test_it_repeats_itself(trainer):
    first, second = (trainer.train(trainer.initial_model(), 1).model["weights"] for _ in range(2))
    assert first.tolist() == second.tolist()
    assert first.shape == (FEATURES,)


def test_a_step_goes_down_the_gradient_of_the_loss(trainer):
    trainer.parameters["local_steps"] = 1
    model = {"weights": np.full(FEATURES, 0.05, np.float32), "bias": np.array([0.1], np.float32)}
    before = trainer.train(model, 1)
    after = trainer.train(before.model, 2)
    patients = trainer._split()[0]
    scores = patients.features @ model["weights"] + model["bias"]
    loss = np.log1p(np.exp(-(2 * patients.labels - 1) * scores)).mean()
    assert after.metrics["loss"] < before.metrics["loss"] < loss
