"""A simulated attacker for the demo and for tests: it turns its update round and makes it five times as long."""

from edge_client.examples.digits import DigitsTrainer
from edge_client.trainer import Tensors, TrainingOutcome

BOOST = 5.0


class SignFlippedDigitsTrainer(DigitsTrainer):
    """Trains honestly, then submits minus five times what it learned (sign-flip model poisoning)."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Return the base weights minus `BOOST` times the honest change."""
        honest = super().train(model, round_number)
        flipped = {name: model[name] - BOOST * (honest.model[name] - model[name]) for name in model}
        return TrainingOutcome(flipped, honest.sample_count, honest.metrics)
