"""`python -m bench.attacks.published`: a published experiment done again with the enclave's centered clipping.

Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022: MNIST
sorted by label, 25 workers, 5 of them Byzantine, one gradient of 32 images per worker and iteration, 600
iterations, learning rate 0.01, worker momentum 0.9, centered clipping with radius 10 and 3 iterations from the
last aggregate. Five attacks: bit flipping, label flipping, mimic, inner product with 0.1, ALIE.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from bench.attacks.__main__ import PAGE
from bench.attacks.attacks import BY_NAME, NONE, Attack, View, flip_labels
from bench.attacks.data import load_images
from bench.attacks.pipelines import Pipeline
from bench.attacks.report import markdown, put_between_marks
from bench.attacks.run import Federation, run
from bench.attacks.training import LocalTraining, Matrix
from qflare_protocol.aggregation_policy import Stage

MOMENTUM, RADIUS, LEARNING_RATE = 0.9, 10.0, 0.01
FEDERATION = Federation(
    devices=25, attackers=5, alpha=None, rounds=600, hidden=128, training=LocalTraining(1, 32, LEARNING_RATE)
)


def pipeline() -> Pipeline:
    """Return the paper's aggregation in the enclave's terms.

    The paper's momentum is a sum, m = 0.9 m + g, of gradients; the enclave's history is an average of steps,
    (1 - 0.9) times the learning rate as long. The radius shrinks by as much and the server's step makes up for it.
    """
    scale = 1 - MOMENTUM
    return Pipeline(
        "centered clipping with momentum",
        Stage("centered-clipping", {"absolute_radius": RADIUS * LEARNING_RATE * scale, "iterations": 3}),
        history=MOMENTUM,
        server_optimiser=Stage("fedavgm", {"momentum": 0.0, "learning_rate": 1 / scale}),
    )


class WithoutMomentum:
    """What the authors' bit and label flippers send: this round's gradient alone, while the honest send momentum.

    A gradient is about a tenth as long as the sums it stands beside.
    """

    def __init__(self, sign: int) -> None:
        self._sign, self._before = np.float32(sign), np.zeros(0, np.float32)

    def __call__(self, view: View) -> Matrix:
        """Return the part of the attackers' averages that is of this round."""
        before = np.float32(MOMENTUM) * (self._before if self._before.size else view.own)
        self._before = view.own.copy()
        return self._sign * (view.own - before)


EXPERIMENTS = {
    "no attack": (NONE, None),
    "bit flip": (Attack("bit flip", "", lambda: WithoutMomentum(-1), trains=True), 97.8),
    "label flip": (Attack("label flip", "", lambda: WithoutMomentum(1), flip_labels, trains=True), 97.8),
    "mimic": (BY_NAME["mimic"], 97.9),
    "inner product 0.1": (BY_NAME["inner product 0.1"], 97.8),
    "ALIE": (BY_NAME["ALIE"], 98.2),
    "bit flip, with momentum": (BY_NAME["sign flip"], None),
    "label flip, with momentum": (BY_NAME["label flip"], None),
}
"""Attack and published accuracy by name: the mean of three runs in percent, from the logs that the authors publish."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, then print the table or write it into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks.published", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each attack (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="workers (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks/attacks.md")
    options = parser.parse_args(arguments)
    jobs = [(attack, seed) for attack in EXPERIMENTS for seed in range(options.seeds)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        accuracies = pool.map(accuracy_under, jobs, chunksize=1)
    text = comparison({name: [a for (n, _), a in zip(jobs, accuracies, strict=True) if n == name] for name, _ in jobs})
    if options.write:
        put_between_marks(PAGE, "published", text)
    else:
        sys.stdout.write(text)


def accuracy_under(job: tuple[str, int]) -> float:
    """Return the accuracy after all iterations."""
    attack, seed = job
    ours = pipeline()
    return run(
        load_images(), FEDERATION, EXPERIMENTS[attack][0], ours.aggregate(FEDERATION), seed, beta=ours.history
    ).accuracy


def comparison(accuracies: dict[str, list[float]]) -> str:
    """Return the table: published, ours with its deviation over the seeds, and what the attack takes."""
    free = 100 * fmean(accuracies["no attack"])
    rows = []
    for name, ran in accuracies.items():
        mean = 100 * fmean(ran)
        spread = f" ± {100 * stdev(ran):.1f}" if len(ran) > 1 else ""
        published = EXPERIMENTS[name][1]
        rows.append([name, f"{published:.1f}" if published else "", f"{mean:.1f}{spread}", f"{mean - free:+.1f}"])
    return markdown(["attack", "published", "here", "against no attack here"], rows)


if __name__ == "__main__":
    main()
