"""The example on handwritten digits: its shards, its training, and the simulated attacker."""

import numpy as np
import pytest

from edge_client.examples.digits_data import HELD_OUT_SHARE, held_out, shard

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("count", [3, 10, 40])
def test_the_shards_are_disjoint_and_cover_everything_that_is_not_held_out(count: int) -> None:
    parts = [shard(index, count, alpha=0.5, seed=3) for index in range(count)]
    total = sum(len(part.labels) for part in parts) + len(held_out(3).labels)
    assert total == 1797
    rows = np.concatenate([part.features for part in parts] + [held_out(3).features])
    assert len(np.unique(rows, axis=0)) > 1790  # the data set itself repeats a few images
    assert len(held_out(3).labels) == round(1797 * HELD_OUT_SHARE)


def test_shards_are_unlike_one_another() -> None:
    shares = [np.bincount(shard(index, 10, alpha=0.5, seed=1).labels, minlength=10) for index in range(10)]
    fractions = np.array([share / share.sum() for share in shares])
    assert fractions.max() > 0.3


def test_the_split_depends_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(shard(0, 5, alpha=0.5, seed=9).labels, shard(0, 5, alpha=0.5, seed=9).labels)
    assert not np.array_equal(held_out(1).labels, held_out(2).labels)


def test_a_shard_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 4"):
        shard(5, 5, alpha=0.5, seed=1)


def test_training_learns_is_repeatable_and_leaves_its_input_alone() -> None:
    from edge_client.examples.digits import DigitsTrainer

    trainer = DigitsTrainer({"seed": 1, "shards": 2}, {"shard": "0"})
    model = trainer.initial_model()
    before = {name: value.copy() for name, value in model.items()}
    first, second = trainer.train(model, 1), trainer.train(model, 1)
    for name in model:
        np.testing.assert_array_equal(model[name], before[name])
        np.testing.assert_array_equal(first.model[name], second.model[name])
    assert trainer.evaluate(first.model)["accuracy"] > trainer.evaluate(model)["accuracy"] + 0.2
    assert first.sample_count == len(shard(0, 2, alpha=0.5, seed=1).labels)


def test_the_simulated_attacker_turns_its_update_round_five_times_as_long() -> None:
    from edge_client.examples.digits import DigitsTrainer
    from edge_client.examples.poisoned_digits import SignFlippedDigitsTrainer

    parameters, options = {"seed": 1, "shards": 2}, {"shard": "0"}
    honest, attacker = DigitsTrainer(parameters, options), SignFlippedDigitsTrainer(parameters, options)
    model = honest.initial_model()
    learned, flipped = honest.train(model, 1).model, attacker.train(model, 1).model
    for name in model:
        np.testing.assert_allclose(flipped[name] - model[name], -5 * (learned[name] - model[name]), atol=1e-5)
