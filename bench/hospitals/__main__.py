"""`python -m bench.hospitals`: four real hospitals learn alone, together, with privacy, and with one that poisons.

With --write the tables of docs/tutorials/four-hospitals.md are made anew; without, they are printed.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from bench.attacks.data import data_folder
from bench.attacks.report import markdown, put_between_marks
from bench.attacks.training import Network, Vector
from bench.hospitals.aggregations import AGGREGATIONS, MEAN, hospital_privacy
from bench.hospitals.measures import accuracy, area_under_curve
from bench.hospitals.study import MODELS, POISONS, Privacy, flip_labels, scores, train_alone, train_together
from edge_client.examples.heart_disease_data import HOSPITALS, Patients, read_hospital, split

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "four-hospitals.md"
NAMES = ("Cleveland", "Hungary", "Switzerland", "Long Beach")
EPSILONS = (math.inf, 3.0, 1.0, 0.3)
HOSPITAL_EPSILON, HOSPITAL_DELTA = 10.0, 1e-2


@dataclass(frozen=True)
class Split:
    """One way to divide each hospital's patients into those to learn from and those held out."""

    seed: int
    training: list[Patients]
    held_out: list[Patients]

    @classmethod
    def of(cls, hospitals: Sequence[Patients], seed: int) -> "Split":
        """Divide by the seed."""
        training, held_out = zip(*(split(patients, seed) for patients in hospitals), strict=True)
        return cls(seed, list(training), list(held_out))

    @property
    def pooled(self) -> Patients:
        """All training patients, as if they could be brought to one place."""
        return _joined(self.training)


Models = list[Vector]
"""One model per hospital, in their order; often the same."""
Method = Callable[[Network, Split], Models]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, then print the tables or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.hospitals", description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="random splits of the patients (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/tutorials/four-hospitals.md")
    options = parser.parse_args(arguments)
    folder = data_folder() / "heart_disease"
    hospitals = [read_hospital(folder, name) for name in HOSPITALS]
    splits = [Split.of(hospitals, seed) for seed in range(options.splits)]
    tables = {"learning": learning(splits), "privacy": privacy(splits), "poison": poisoning(splits)}
    for name, text in tables.items():
        if options.write:
            put_between_marks(PAGE, name, text)
        else:
            sys.stdout.write(f"{text}\n")


def learning(splits: Sequence[Split]) -> str:
    """Return the table of alone, together and pooled, without privacy."""
    return _table(splits, {"each alone": alone(), "federated": federated(), "pooled": pooled()}, MODELS)


def privacy(splits: Sequence[Split]) -> str:
    """Return the table of what privacy costs, for the logistic regression."""
    methods: dict[str, Method] = {}
    for epsilon in EPSILONS:
        of_patients = Privacy(epsilon)
        said = "clipped, no noise" if math.isinf(epsilon) else f"each patient ε = {epsilon:g}"
        methods[f"each alone, {said}"] = alone(of_patients)
        methods[f"federated, {said}"] = federated(of_patients)
        methods[f"pooled, {said}"] = pooled(of_patients)
    methods[f"federated, each hospital ε = {HOSPITAL_EPSILON:g}"] = federated_with_private_hospitals
    logistic = next(iter(MODELS))
    return _table(splits, methods, {logistic: MODELS[logistic]})


def alone(of_patients: Privacy | None = None) -> Method:
    """Every hospital has a model of its own."""
    return lambda network, at: [train_alone(network, patients, at.seed, of_patients) for patients in at.training]


def pooled(of_patients: Privacy | None = None) -> Method:
    """One model of all patients in one place."""
    return lambda network, at: [train_alone(network, at.pooled, at.seed, of_patients)] * len(at.training)


def federated(of_patients: Privacy | None = None) -> Method:
    """One model of a federation."""

    def method(network: Network, at: Split) -> Models:
        model = train_together(network, at.training, at.seed, AGGREGATIONS[MEAN](), privacy=of_patients)
        return [model] * len(at.training)

    return method


def federated_with_private_hospitals(network: Network, at: Split) -> Models:
    """One model of a federation whose enclave hides whether a hospital took part at all."""
    aggregate = hospital_privacy(HOSPITAL_EPSILON, HOSPITAL_DELTA)
    return [train_together(network, at.training, at.seed, aggregate)] * len(at.training)


def _table(splits: Sequence[Split], methods: dict[str, Method], models: dict[str, Network]) -> str:
    rows = []
    for model_name, network in models.items():
        for method_name, method in methods.items():
            ran = np.array([judge(network, method(network, at), at.held_out) for at in splits])
            label = f"{model_name}, {method_name}" if len(models) > 1 else method_name
            rows.append([label, *(_mean_and_deviation(column) for column in ran.T)])
    return markdown(["", *NAMES, "all patients", "mean AUC"], rows)


def judge(network: Network, models: Models, held_out: Sequence[Patients]) -> list[float]:
    """Return accuracy at each hospital, over all patients, and the mean over hospitals of the area under the curve."""
    found = [scores(network, model, patients) for model, patients in zip(models, held_out, strict=True)]
    labels = [patients.labels for patients in held_out]
    by_hospital = [accuracy(*pair) for pair in zip(found, labels, strict=True)]
    areas = [area_under_curve(*pair) for pair in zip(found, labels, strict=True)]
    return [*by_hospital, accuracy(np.concatenate(found), np.concatenate(labels)), fmean(areas)]


def poisoning(splits: Sequence[Split]) -> str:
    """Return the table of one hospital that poisons: accuracy on the held-out patients of the other three."""
    head = ["logistic regression, accuracy at the honest three", *AGGREGATIONS]
    network = next(iter(MODELS.values()))
    rows = []
    for poison in ("no attack", "left out", "labels flipped", *POISONS):
        cells = []
        for new_aggregate in AGGREGATIONS.values():
            ran = [
                _accuracy_of_honest(network, at, new_aggregate(), poison, poisoner)
                for at in splits
                for poisoner in range(len(HOSPITALS))
            ]
            cells.append(_mean_and_deviation(ran))
        rows.append([poison, *cells])
    return markdown(head, rows)


def _accuracy_of_honest(network: Network, at: Split, aggregate: Callable, poison: str, poisoner: int) -> float:
    training = list(at.training)
    if poison == "left out":
        del training[poisoner]
    elif poison == "labels flipped":
        training[poisoner] = flip_labels(training[poisoner])
    model = train_together(network, training, at.seed, aggregate, poisoner=poisoner, poison=POISONS.get(poison))
    honest = _joined([patients for place, patients in enumerate(at.held_out) if place != poisoner])
    return accuracy(scores(network, model, honest), honest.labels)


def _joined(parts: Sequence[Patients]) -> Patients:
    return Patients(np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts]))


def _mean_and_deviation(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f} ± {100 * (stdev(values) if len(values) > 1 else 0.0):.1f}"


if __name__ == "__main__":
    main()
