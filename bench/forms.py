"""`python -m bench.forms`: bytes and accuracy of every form of updates on scikit-learn's digits.

Devices code their updates with the client's code, rounding rests included, and they are decoded with the enclave's;
the mean makes the next model. With --write docs/benchmarks/forms.md is made anew.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.attacks.data import Images, load_digits
from bench.attacks.partition import dirichlet_parts
from bench.attacks.training import LocalTraining, Matrix, Network, Vector, accuracy, as_features, share_out
from edge_client.rounding_rest import RoundingRest, rest_was_delivered
from edge_client.update_coding import coded_blocks
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.tensors import Tensor, TensorLayout
from qflare_protocol.update_shape import UpdateShape

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "forms.md"
DEVICES, ALPHA, FEDERATION = 10, 0.5, bytes(16)
FORMS = [
    Stage("delta"),
    Stage("weights"),
    Stage("bfloat16"),
    Stage("int8-blocks", {"block_values": 4096}),
    Stage("int8-blocks", {"block_values": 64}),
    Stage("random-mask", {"fraction": 0.5}),
    Stage("random-mask", {"fraction": 0.1}),
]


@dataclass(frozen=True)
class Line:
    """One form: sealed bytes of an update, and the mean and the least accuracy over the seeds."""

    name: str
    sealed_bytes: int
    accuracy: float
    least: float


def line_of(form: Stage, *, rounds: int, seeds: int) -> Line:
    """Train with a form on every seed."""
    policy = AggregationPolicy(form=form, server_optimiser=Stage("none"))
    reached = [train(policy, rounds=rounds, seed=seed) for seed in range(seeds)]
    parameters = ", ".join(f"{name} {value:g}" for name, value in form.parameters.items())
    size = sum(shape_of(policy, Network(64).size, 0).sealed_bytes(1))
    return Line(f"{form.name} {parameters}".strip(), size, float(np.mean(reached)), min(reached))


def shape_of(policy: AggregationPolicy, size: int, number: int) -> UpdateShape:
    """Return the shape of a round's updates to a model of one tensor."""
    layout = TensorLayout((Tensor("w", "F32", (size,)),))
    return UpdateShape.of(policy, layout, federation_id=FEDERATION, round_id=number.to_bytes(16, "big"))


def train(policy: AggregationPolicy, *, rounds: int, seed: int) -> float:
    """Return the last model's accuracy on the images held out."""
    data, generator = load_digits(), np.random.default_rng(seed)
    network, training = Network(data.training.pixels.shape[1]), LocalTraining()
    parts = share_out(data.training, dirichlet_parts(data.training.labels, DEVICES, ALPHA, generator))
    model = network.initial(generator)
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / str(device) for device in range(DEVICES)]
        for number in range(rounds):
            shape = shape_of(policy, network.size, number)
            deltas = training.deltas(network, model, parts, generator)
            model = _next_model(policy, shape, model, deltas, homes)
    return _judged(network, model, data.held_out)


def _next_model(
    policy: AggregationPolicy, shape: UpdateShape, model: Vector, deltas: Matrix, homes: Sequence[Path]
) -> Vector:
    mean = np.mean([*_read(policy, shape, model, deltas, homes)], axis=0)
    made = model.copy()
    chosen = np.concatenate([np.arange(one.start, one.start + one.width)[one.chosen] for one in shape.pieces()])
    made[chosen] += mean
    return made


def _read(
    policy: AggregationPolicy, shape: UpdateShape, model: Vector, deltas: Matrix, homes: Sequence[Path]
) -> Iterator[Vector]:
    """Yield what the enclave reads of each device's update."""
    chosen = np.concatenate([np.arange(one.start, one.start + one.width)[one.chosen] for one in shape.pieces()])
    for delta, home in zip(deltas, homes, strict=True):
        with ExitStack() as stack:
            rest = None
            if shape.form.name == "int8-blocks":
                rest = stack.enter_context(RoundingRest(home, FEDERATION, policy.digest(), shape.size))
            coded = b"".join(coded_blocks(shape, {"w": model}, {"w": model + delta}, rest))
            if rest is not None:
                rest.commit()
                rest_was_delivered(home, FEDERATION)
        values = np.empty(shape.size, dtype=np.float32)
        shape.form.coding.decode(np.frombuffer(coded, dtype=np.uint8), values)
        yield values - model[chosen] if shape.form.absolute else values


def _judged(network: Network, model: Vector, images: Images) -> float:
    return accuracy(network, model, as_features(images.pixels), images.labels)


def page(lines: Sequence[Line], *, rounds: int, seeds: int) -> str:
    """Return the page as Markdown."""
    rows = [
        f"| {line.name} | {line.sealed_bytes:,} | {line.sealed_bytes / lines[0].sealed_bytes:.2f} "
        f"| {100 * line.accuracy:.1f} | {100 * line.least:.1f} |"
        for line in lines
    ]
    return f"""# Forms of updates

    .venv/bin/python -m bench.forms --write

scikit-learn's digits among {DEVICES} devices (Dirichlet, α = {ALPHA}), {rounds} rounds of ten steps, {seeds} seeds; one
hidden layer of 32 units, {Network(64).size:,} weights. Updates are coded by the client's code, rounding rests
included, decoded by the enclave's and averaged. Accuracy on the images held out, in percent. The sealed update has some
1,800 bytes beside its values, which a larger model does not notice.

| form | bytes sealed | of `delta` | accuracy | least of the seeds |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, then print or write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.forms", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/forms.md")
    options = parser.parse_args(arguments)
    lines = [line_of(form, rounds=options.rounds, seeds=options.seeds) for form in FORMS]
    text = page(lines, rounds=options.rounds, seeds=options.seeds)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
