"""A small torch network on the handwritten digits: the example of training code, and the demo's.

Federation parameters: `seed`, `alpha`, `shards`, `local_steps`, `learning_rate`, `batch_size`. A fixed
number of steps keeps the norms of updates comparable, however uneven the shards. With `held_out_share`
each device keeps that share of its shard from training and evaluates new versions on it.
Device option: `shard`, from 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_client.examples.digits_data import CLASSES, LabelledImages, held_out, shard
from edge_client.trainer import EvaluationOutcome, Tensors, Trainer, TrainingOutcome

HIDDEN_UNITS = 64
PIXELS = 64


class DigitsTrainer(Trainer):
    """Local SGD on this device's shard."""

    def __init__(self, parameters: Mapping[str, Any], options: Mapping[str, str]) -> None:
        super().__init__(parameters, options)
        torch.set_num_threads(1)
        self._seed = int(parameters.get("seed", 0))

    def initial_model(self) -> Tensors:
        """Return weights drawn from the federation's seed."""
        torch.manual_seed(self._seed)
        return _weights_of(_network())

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Train a fixed number of steps over the shard; the batches depend on seed, round and shard only."""
        data, _ = self._parts()
        network = _network_with(model)
        generator = np.random.default_rng([self._seed, round_number, self._index()])
        learning_rate = float(self.parameters.get("learning_rate", 0.2))
        features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
        batch_size, loss = int(self.parameters.get("batch_size", 32)), torch.zeros(())
        steps = int(self.parameters.get("local_steps", 100))
        for step in range(steps):
            rows = torch.from_numpy(generator.integers(len(labels), size=batch_size))
            network.zero_grad()
            loss = nn.functional.cross_entropy(network(features[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            _descend(network, learning_rate)
            self.report((step + 1) / steps, float(loss.detach()))
        return TrainingOutcome(_weights_of(network), len(labels), {"loss": float(loss.detach())})

    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Return loss and accuracy on the held-out fifth."""
        return _measures(model, held_out(self._seed))

    def evaluate_here(self, model: Tensors) -> EvaluationOutcome | None:
        """Return loss and accuracy on the share of the shard that is held out here, if any is."""
        _, kept = self._parts()
        return EvaluationOutcome(len(kept.labels), _measures(model, kept)) if len(kept.labels) else None

    def _index(self) -> int:
        return int(self.options.get("shard", "0"))

    def _parts(self) -> tuple[LabelledImages, LabelledImages]:
        """Return the shard's images to train on, and those held out here."""
        images, share = self._shard(), float(self.parameters.get("held_out_share", 0.0))
        # A shard lies in the order of its classes: each gives its share.
        kept = np.diff(np.floor(np.arange(len(images.labels) + 1) * share)) > 0
        training = LabelledImages(images.features[~kept], images.labels[~kept])
        return training, LabelledImages(images.features[kept], images.labels[kept])

    def _shard(self) -> LabelledImages:
        return shard(
            self._index(),
            int(self.parameters.get("shards", 1)),
            alpha=float(self.parameters.get("alpha", 0.5)),
            seed=self._seed,
        )


def _measures(model: Tensors, data: LabelledImages) -> dict[str, float]:
    with torch.no_grad():
        scores = _network_with(model)(torch.from_numpy(data.features))
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(data.labels))
    accuracy = float((scores.argmax(dim=1).numpy() == data.labels).mean())
    return {"loss": float(loss), "accuracy": accuracy}


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(PIXELS, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, CLASSES))


def _network_with(model: Tensors) -> nn.Sequential:
    network = _network()
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in model.items()})
    return network


@torch.no_grad()
def _descend(network: nn.Module, learning_rate: float) -> None:
    # torch.optim would import torch._dynamo: seconds and 150 MB for a subtraction.
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.sub_(learning_rate * parameter.grad)


def _weights_of(network: nn.Module) -> Tensors:
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
