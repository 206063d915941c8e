"""`python -m bench.privacy --write`: what accuracy differential privacy costs, in docs/differential-privacy.md.

Simulated: N devices hold equal shares of MNIST's training images, pooled to 14 by 14 (scikit-learn's
digits where MNIST is not there), their classes spread by Dirichlet(0.5). In each of T rounds every
device takes a few steps of softmax regression from the global model; its update is clipped to the norm
C; the sum, with Gaussian noise of z times C in each weight, is divided by N and added to the model. z
is the least with which T releases spend epsilon at delta, by the accounting that the platform uses.
T and C are chosen per cell on images held out from training, which is not accounted for (nor is it in
most published tables); the accuracy is that on the test images, mean and range over seeds.
"""

import argparse
import functools
import gzip
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.privacy import noise_for

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT.parent / "shared/data/mnist"
DOCUMENT = ROOT / "docs/differential-privacy.md"
BEGIN, END = "<!-- made by bench.privacy: begin -->\n", "<!-- made by bench.privacy: end -->\n"

DEVICES, EPSILONS, DELTA = (20, 100, 1000), (1.0, 3.0, 8.0, None), 1e-5
ROUNDS, CLIP_NORMS = (5, 10, 30), (0.3, 1.0, 3.0)
SEEDS = (1, 2, 3)
LOCAL_STEPS, RATE, CLASSES, HELD_OUT, CONCENTRATION = 5, 2.0, 10, 10_000, 0.5


@dataclass(frozen=True)
class Images:
    """Pixels of 0 to 1 with a constant 1 appended, one row each, and their classes."""

    pixels: Floats
    classes: Labels


@dataclass(frozen=True)
class Data:
    """What devices train on, what the terms are chosen on, and what the table reports on."""

    name: str
    training: Images
    held_out: Images
    test: Images


@dataclass(frozen=True)
class Terms:
    """One way to train: devices, rounds, clip norm, and the noise multiplier (None: no noise)."""

    devices: int
    rounds: int
    clip_norm: float
    noise_multiplier: float | None


def load_data(folder: Path = MNIST) -> Data:
    """Return MNIST from its four gzipped files, or the digits that come with scikit-learn."""
    if not folder.is_dir():
        return _digits()
    training, test = (_mnist(folder, part) for part in ("train", "t10k"))
    return Data("MNIST, 14 by 14", *_split(training, HELD_OUT), test)


def _mnist(folder: Path, part: str) -> Images:
    images = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    classes = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pooled = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4), dtype=np.float32) / np.float32(255)
    return _images(pooled.reshape(len(pooled), -1), classes)


def _digits() -> Data:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    whole = _images(pixels[order] / 16, classes[order])
    training, test = _split(whole, 360)
    return Data("scikit-learn digits, 8 by 8", *_split(training, 300), test)


def _images(pixels: npt.ArrayLike, classes: npt.ArrayLike) -> Images:
    rows = np.asarray(pixels, dtype=np.float32)
    return Images(np.hstack([rows, np.ones((len(rows), 1), np.float32)]), np.asarray(classes, dtype=np.int64))


def _split(images: Images, last: int) -> tuple[Images, Images]:
    first = Images(images.pixels[:-last], images.classes[:-last])
    return first, Images(images.pixels[-last:], images.classes[-last:])


def shares(classes: Labels, devices: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the rows of each device, all of one number: its classes by Dirichlet, each row given away once."""
    each = len(classes) // devices
    pools = [list(generator.permutation(np.flatnonzero(classes == label))) for label in range(CLASSES)]
    given = np.empty((devices, each), dtype=np.int64)
    for device in generator.permutation(devices):
        wanted = generator.multinomial(each, generator.dirichlet([CONCENTRATION] * CLASSES))
        rows = [pool.pop() for pool, count in zip(pools, wanted, strict=True) for _ in range(min(count, len(pool)))]
        while len(rows) < each:  # a class has run out: the fullest one stands in
            rows.append(max(pools, key=len).pop())
        given[device] = rows
    return given


def local_updates(model: Floats, pixels: Floats, targets: Floats) -> Floats:
    """Return what each device's steps change: (devices, weights) from (devices, images, pixels) and (.., classes)."""
    weights = np.repeat(model[None], len(pixels), axis=0)
    transposed = pixels.transpose(0, 2, 1)
    for _ in range(LOCAL_STEPS):
        scores = pixels @ weights
        scores -= scores.max(axis=2, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=2, keepdims=True)
        weights -= np.float32(RATE / pixels.shape[1]) * (transposed @ (scores - targets))
    return (weights - model).reshape(len(pixels), -1)


def private_sum(updates: Floats, terms: Terms, generator: np.random.Generator) -> Floats:
    """Return the sum of the clipped updates, with noise of standard deviation z*C in each weight."""
    clip_norm, noise_multiplier = terms.clip_norm, terms.noise_multiplier
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    total = (updates * np.minimum(1, clip_norm / np.maximum(norms, 1e-12))).sum(axis=0)
    if noise_multiplier is not None:
        total = total + generator.normal(scale=noise_multiplier * clip_norm, size=total.shape)
    return total.astype(np.float32)


def train(data: Data, terms: Terms, seed: int) -> Floats:
    """Return the global model after all rounds; the same for the same seed."""
    generator = np.random.default_rng([seed, terms.devices])
    rows = shares(data.training.classes, terms.devices, generator)
    pixels, targets = data.training.pixels[rows], np.eye(CLASSES, dtype=np.float32)[data.training.classes[rows]]
    model = np.zeros((pixels.shape[2], CLASSES), dtype=np.float32)
    for _ in range(terms.rounds):
        updates = local_updates(model, pixels, targets)
        total = private_sum(updates, terms, generator)
        model += total.reshape(model.shape) / terms.devices
    return model


def accuracy(model: Floats, images: Images) -> float:
    """Return the share of images that the model puts into their class."""
    return float(((images.pixels @ model).argmax(axis=1) == images.classes).mean())


def choices(devices: int, epsilon: float | None) -> list[Terms]:
    """Return the terms among which a cell is chosen."""
    return [
        Terms(devices, rounds, clip_norm, None if epsilon is None else noise_for(rounds, epsilon, DELTA))
        for rounds, clip_norm in itertools.product(ROUNDS, CLIP_NORMS)
    ]


def best_terms(data: Data, devices: int, epsilon: float | None) -> Terms:
    """Return the terms of the best accuracy on the images held out, at a seed that the table does not use."""
    return max(choices(devices, epsilon), key=lambda terms: accuracy(train(data, terms, seed=0), data.held_out))


def cell(data: Data, place: tuple[float | None, int]) -> str:
    """Return the entry of the table for an epsilon and a number of devices."""
    epsilon, devices = place
    terms = best_terms(data, devices, epsilon)
    return _shown(terms, [accuracy(train(data, terms, seed), data.test) for seed in SEEDS])


def table(data: Data, devices: Sequence[int], epsilons: Sequence[float | None], run: Any = map) -> str:
    """Return the table in Markdown; `run` maps a function over the cells, perhaps in several processes."""
    entries = iter(run(functools.partial(cell, data), list(itertools.product(epsilons, devices))))
    heads = [data.name, *(f"{count:,} devices" for count in devices)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for epsilon in epsilons:
        heading = "no noise" if epsilon is None else f"epsilon {epsilon:g}"
        lines.append(f"| {heading} | {' | '.join(itertools.islice(entries, len(devices)))} |")
    return "\n".join(lines) + "\n"


def _shown(terms: Terms, accuracies: list[float]) -> str:
    noise = "" if terms.noise_multiplier is None else f", z {terms.noise_multiplier:.2f}"
    spread = (max(accuracies) - min(accuracies)) / 2
    return f"**{np.mean(accuracies):.1%}** ± {spread:.1%} (T {terms.rounds}, C {terms.clip_norm:g}{noise})"


def write(document: Path, text: str) -> None:
    """Put the text between the two marks of the document."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print, or write the document's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    options = parser.parse_args(arguments)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the processes of the pool, which load numpy anew
    started = time.monotonic()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = table(load_data(), DEVICES, EPSILONS, pool.map)
    sys.stdout.write(made)
    sys.stderr.write(f"{time.monotonic() - started:.0f} s\n")
    if options.write:
        write(DOCUMENT, made)


if __name__ == "__main__":
    main()
