"""How a round's training is run: in this process, or in a child under limits (`training_process`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edge_client.tensor_files import map_tensor_file, write_tensor_file
from edge_client.trainer import EvaluationOutcome, Progress, Trainer
from edge_client.training_folder import TrainingFolder

TrainerFactory = Callable[[Mapping[str, Any]], Trainer]
Watch = Callable[[Progress], None]
"""Is told of every progress, and raises `TrainingStopped` where nobody waits for the training any more."""


@dataclass(frozen=True)
class TrainingTask:
    """What to train: the federation's parameters and the round's number; the base model lies in the folder.

    `version` is that model's number where it is to be evaluated.
    """

    parameters: Mapping[str, Any]
    round_number: int
    version: int = 0


@dataclass(frozen=True)
class Trained:
    """What a training came to beside the model, which lies in the folder."""

    sample_count: int
    metrics: dict[str, float]


class Training(Protocol):
    """Runs training code."""

    def train(self, task: TrainingTask, folder: TrainingFolder, watch: Watch) -> Trained:
        """Train from the folder's base model and leave the trained one there.

        Raises `TrainingFailed` with a reason that may leave the device, and what `watch` raises.
        """

    def evaluate(self, task: TrainingTask, folder: TrainingFolder) -> EvaluationOutcome | None:
        """Evaluate the folder's base model on this device's own data; None where it holds none back.

        Raises `TrainingFailed`.
        """

    def close(self) -> None:
        """End whatever the training runs in."""


class TrainingHere:
    """Runs training code in this process: for tests, and for programs that embed the client."""

    def __init__(self, make_trainer: TrainerFactory) -> None:
        self._make_trainer = make_trainer

    def train(self, task: TrainingTask, folder: TrainingFolder, watch: Watch) -> Trained:
        """Train from the folder's base model and leave the trained one there; an exception of the code passes."""
        trainer = self._make_trainer(task.parameters)
        trainer.watch(watch)
        outcome = trainer.train(map_tensor_file(folder.base), task.round_number)
        write_tensor_file(folder.trained, outcome.model)
        return Trained(outcome.sample_count, outcome.metrics)

    def evaluate(self, task: TrainingTask, folder: TrainingFolder) -> EvaluationOutcome | None:
        """Evaluate the folder's base model on this device's own data; None where it holds none back."""
        trainer = self._make_trainer(task.parameters)
        trainer.version = task.version
        return trainer.evaluate_here(map_tensor_file(folder.base))

    def close(self) -> None:
        """Nothing to end."""
