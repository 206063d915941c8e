"""Local training of all devices at once: one small network, its weights a row per device, matrix products batched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.attacks.data import CLASSES, Images, Labels, Pixels
from bench.attacks.partition import Rows

PIXEL_MEAN, PIXEL_DEVIATION = 0.1307, 0.3081
Vector = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """One hidden layer of rectified linear units and a softmax; without hidden units, softmax regression."""

    inputs: int
    hidden: int = 32
    classes: int = CLASSES

    @property
    def _widths(self) -> list[int]:
        return [self.inputs, self.hidden, self.classes] if self.hidden else [self.inputs, self.classes]

    @property
    def size(self) -> int:
        """The number of weights."""
        return sum((before + 1) * after for before, after in zip(self._widths, self._widths[1:], strict=False))

    def initial(self, generator: np.random.Generator) -> Vector:
        """Return weights drawn as He et al. (2015), biases zero."""
        model = np.zeros((1, self.size), dtype=np.float32)
        for weights, _ in self.layers(model):
            weights[:] = generator.normal(0, np.sqrt(2 / weights.shape[1]), weights.shape)
        return model[0]

    def layers(self, models: Matrix) -> list[tuple[Matrix, Matrix]]:
        """Return (weights, biases) of each layer as views of the rows of `models`."""
        found, start = [], 0
        for before, after in zip(self._widths, self._widths[1:], strict=False):
            middle, end = start + before * after, start + (before + 1) * after
            weights = models[:, start:middle].reshape(len(models), before, after)
            found.append((weights, models[:, middle:end].reshape(len(models), 1, after)))
            start = end
        return found

    def scores(self, models: Matrix, features: Matrix) -> list[Matrix]:
        """Return what each layer gives, the last one unnormalised; features are (models, images, pixels)."""
        outputs = [features]
        layers = self.layers(models)
        for number, (weights, biases) in enumerate(layers, 1):
            output = outputs[-1] @ weights
            output += biases
            outputs.append(np.maximum(output, 0, out=output) if number < len(layers) else output)
        return outputs[1:]

    def descend(self, models: Matrix, features: Matrix, labels: Labels, learning_rate: float) -> None:
        """Take one step of gradient descent on the mean cross-entropy, each model on its own batch, in place."""
        outputs = self.scores(models, features)
        error = softmax(outputs[-1])
        devices, images = labels.shape
        error[np.arange(devices)[:, None], np.arange(images), labels] -= 1
        error *= learning_rate / images
        layers = self.layers(models)
        for number in range(len(layers) - 1, -1, -1):
            weights, biases = layers[number]
            inputs = outputs[number - 1] if number else features
            step = inputs.swapaxes(1, 2) @ error
            biases -= error.sum(axis=1, keepdims=True)
            if number:
                error = (error @ weights.swapaxes(1, 2)) * (inputs > 0)
            weights -= step


def softmax(scores: Matrix) -> Matrix:
    """Return the probabilities of the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def as_features(pixels: Pixels) -> Matrix:
    """Return pixels as floats about zero and of about unit variance, by MNIST's own mean and deviation."""
    scale, shift = np.float32(1 / (255 * PIXEL_DEVIATION)), np.float32(PIXEL_MEAN / PIXEL_DEVIATION)
    return pixels.astype(np.float32) * scale - shift


def accuracy(network: Network, model: Vector, features: Matrix, labels: Labels) -> float:
    """Return the share of images that the model classifies rightly."""
    found = network.scores(model[None], features[None])[-1][0].argmax(axis=1)
    return float((found == labels).mean())


@dataclass(frozen=True)
class LocalTraining:
    """So many steps of stochastic gradient descent per round; a fixed number keeps norms alike on unlike parts."""

    steps: int = 10
    batch: int = 32
    learning_rate: float = 0.1

    def deltas(
        self, network: Network, model: Vector, parts: Sequence[Images], generator: np.random.Generator
    ) -> Matrix:
        """Return what each device's training changes of the model: one row per part, batches with replacement."""
        models = np.repeat(model[None], len(parts), axis=0)
        lengths = np.array([len(part) for part in parts])
        for _ in range(self.steps):
            draws = (generator.random((len(parts), self.batch)) * lengths[:, None]).astype(np.int64)
            pixels = np.stack([part.pixels[rows] for part, rows in zip(parts, draws, strict=True)])
            labels = np.stack([part.labels[rows] for part, rows in zip(parts, draws, strict=True)])
            network.descend(models, as_features(pixels), labels, self.learning_rate)
        models -= model
        return models


def share_out(images: Images, parts: Sequence[Rows]) -> list[Images]:
    """Return each device's images."""
    return [Images(images.pixels[rows], images.labels[rows]) for rows in parts]
