"""The interface of training code: a user implements it for their own model and data.

A trainer is named as `module:Class` on the device's own command line, an unchanged Flower client as
`flower:module:client`; the server can pass parameters to it, but never choose what code runs.
"""

import importlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qflare_protocol.errors import Refusal

Tensors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class TrainingOutcome:
    """What a local training gives: the new weights, on how many samples, and metrics to report."""

    model: Tensors
    sample_count: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationOutcome:
    """What a model is worth on data that only this device has: metrics, and on how many samples."""

    sample_count: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Progress:
    """How far a training has come: `fraction` from 0 to 1, and what it likes to tell."""

    fraction: float = 0.0
    loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class TrainingFailed(Exception):  # noqa: N818 - it says what happened
    """The training ended without an outcome; the message names no value of the data and may leave the device."""


class TrainingStopped(Exception):  # noqa: N818 - it says what happened
    """Nobody waits for this training any more; the message says why."""


class Trainer(ABC):
    """Training code for one model. `parameters` come from the federation, `options` from the device.

    `version` is the number of the version that `evaluate_here` is given; 0 where it is not known.
    """

    version: int = 0
    _watch: Callable[[Progress], None] | None = None

    def __init__(self, parameters: Mapping[str, Any], options: Mapping[str, str]) -> None:
        self.parameters, self.options = parameters, options

    def watch(self, listener: Callable[[Progress], None]) -> None:
        """Call a listener with every progress that is reported from now on."""
        self._watch = listener

    def report(self, fraction: float, loss: float | None = None, **metrics: float) -> None:
        """Tell how far `train` has come; call it as often as you like. Operators see it while the round runs.

        A fraction outside of 0 to 1 counts as the next of these, one that is no number as 0.
        """
        if self._watch is not None:
            done = float(fraction)
            self._watch(Progress(0.0 if math.isnan(done) else min(max(done, 0.0), 1.0), loss, metrics))

    @abstractmethod
    def initial_model(self) -> Tensors:
        """Return the weights a federation starts from, as float32 arrays by name."""

    @abstractmethod
    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        """Train from the given weights on this device's data; must not change `model`."""

    @abstractmethod
    def evaluate(self, model: Tensors) -> dict[str, float]:
        """Return metrics, such as accuracy in 0 to 1, on data held back for it."""

    def evaluate_here(self, model: Tensors) -> EvaluationOutcome | None:
        """Return what a model is worth on this device's own held-out data, for the federation's weighted mean.

        None, the default, where the device holds none back.
        """
        return None


def find_trainer(spec: str) -> type[Trainer]:
    """Return the trainer class named `module:Class`, or one for a Flower app named `flower:module:client`.

    Raises `Refusal("not-found")` saying what is missing.
    """
    if spec.startswith("flower:"):
        from edge_client.flower import flower_trainer

        return flower_trainer(spec)
    found = imported(spec)
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise Refusal("not-found", f"{spec} is not a subclass of edge_client.trainer.Trainer.")
    return found


def imported(spec: str) -> Any:
    """Import and return what is named `module:name`, from the current folder too.

    Raises `Refusal("not-found")` saying what is missing.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that a file here never shadows an installed module
    module_name, separator, name = spec.partition(":")
    if not separator:
        raise Refusal("not-found", f"Name the training code as module:Class; {spec!r} has no colon.")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise Refusal("not-found", f"The module of the training code cannot be imported: {error}.") from error
    except AttributeError as error:
        raise Refusal("not-found", f"The module {module_name} has no {name}.") from error


def load_trainer(spec: str, parameters: Mapping[str, Any], options: Mapping[str, str]) -> Trainer:
    """Return a trainer of what `find_trainer` finds. Raises as `find_trainer`."""
    return find_trainer(spec)(parameters, options)
