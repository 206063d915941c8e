"""The three examples of training code learn from data that ship with scikit-learn: torch, scikit-learn, NumPy."""

import numpy as np
import pytest

from edge_client.trainer import Progress, load_trainer

EXAMPLES = {
    "edge_client.examples.digits:DigitsTrainer": ("accuracy", 0.8, {"held_out_share": 0.2, "alpha": 10.0}),
    "edge_client.examples.breast_cancer:BreastCancerTrainer": ("accuracy", 0.9, {}),
    "edge_client.examples.diabetes:DiabetesTrainer": ("loss", 0.7, {}),
}
SHARDS = 4


@pytest.mark.parametrize("spec", EXAMPLES)
def test_devices_that_average_what_they_learn_learn_together(spec: str) -> None:
    metric, goal, parameters = EXAMPLES[spec]
    devices = [load_trainer(spec, parameters | {"shards": SHARDS}, {"shard": str(index)}) for index in range(SHARDS)]
    model = devices[0].initial_model()
    before = devices[0].evaluate(model)[metric]
    for round_number in range(1, 6):
        outcomes = [device.train(model, round_number) for device in devices]
        model = {
            name: np.mean([outcome.model[name] for outcome in outcomes], axis=0, dtype=np.float32) for name in model
        }
    after = devices[0].evaluate(model)[metric]
    assert (after > goal > before) if metric == "accuracy" else (after < goal < before)


@pytest.mark.parametrize("spec", EXAMPLES)
def test_they_report_progress_and_evaluate_on_what_they_hold_out(spec: str) -> None:
    metric, _, parameters = EXAMPLES[spec]
    device = load_trainer(spec, parameters | {"shards": SHARDS}, {"shard": "1"})
    told: list[Progress] = []
    device.watch(told.append)
    model = device.initial_model()
    outcome = device.train(model, 1)
    assert [progress.fraction for progress in told] == sorted({progress.fraction for progress in told})
    assert told[-1].fraction == 1.0
    evaluation = device.evaluate_here(outcome.model)
    assert evaluation is not None and metric in evaluation.metrics
    assert 0 < evaluation.sample_count < outcome.sample_count


@pytest.mark.parametrize("spec", EXAMPLES)
def test_training_leaves_the_model_it_is_given_alone(spec: str) -> None:
    _, _, parameters = EXAMPLES[spec]
    device = load_trainer(spec, parameters | {"shards": SHARDS}, {"shard": "1"})
    model = device.initial_model()
    for value in model.values():
        value.flags.writeable = False
    device.train(model, 1)
