"""`python -m bench.aggregate`: every rule beside byzfl, Flower, and the bounds of one read and one Gram product."""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.aggregate.cases import BYZFL, RULES, Rule, Run, gram_bound, nnm_bytes, others, read_bound
from bench.aggregate.table import Measurement, Setting, markdown, plot
from bench.measuring import Stopwatch, steady

COUNTS, SIZES = (10, 50, 100), (100_000, 1_000_000, 10_000_000)
REPETITIONS = 3
SECONDS_EACH = 6.0
LONGEST_SECONDS = 10.0
LARGEST_BYTES = 6 << 30


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all settings, smallest first, and write the table and the plot."""
    options = _options(arguments)
    settings: list[Setting] = []
    for columns in options.sizes:
        for count in options.counts:
            sys.stderr.write(f"n = {count}, d = {columns:,}\n")
            settings.append(_measure(count, columns, settings))
    text = markdown(settings)
    sys.stdout.write(text)
    if options.output is not None:
        options.output.write_text(text)
        options.output.with_suffix(".svg").write_text(plot(settings))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.aggregate", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of updates")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of parameters")
    parser.add_argument("--output", type=Path, help="write the Markdown table here and an SVG plot beside it")
    return parser.parse_args(arguments)


def _measure(count: int, columns: int, smaller: Sequence[Setting]) -> Setting:
    updates = np.random.default_rng(count).standard_normal((count, columns), dtype=np.float32)
    cases: dict[tuple[str, str], Run] = {("bound", "read"): read_bound(updates), ("bound", "gram"): gram_bound(updates)}
    theirs, too_slow = others(updates), {}
    for rule in RULES:
        cases[rule.name, "ours"] = rule.ours(updates)
        for name, run in theirs[rule.name].items():
            expected = _expected_seconds(rule.name, name, count, columns, smaller)
            if expected > LONGEST_SECONDS:
                too_slow[rule.name, name] = _why_not(expected)
            elif name == BYZFL and "NNM" in rule.name and nnm_bytes(count, columns) > LARGEST_BYTES:
                too_slow[rule.name, name] = f"needs {nnm_bytes(count, columns) / 1e9:.0f} GB"
            else:
                cases[rule.name, name] = run
    seconds = _seconds(cases)
    memory = {rule.name: _extra_bytes(cases[rule.name, "ours"]) for rule in RULES}
    measured = [_measurement(rule, seconds, too_slow, memory[rule.name]) for rule in RULES]
    return Setting(count, columns, seconds["bound", "read"], seconds["bound", "gram"], measured)


def _why_not(expected_seconds: float) -> str:
    if expected_seconds == float("inf"):
        return "left out of smaller ones already"
    return f"about {expected_seconds:.0f} s, from a smaller one"


def _measurement(
    rule: Rule,
    seconds: dict[tuple[str, str], float],
    too_slow: dict[tuple[str, str], str],
    memory: int,
) -> Measurement:
    theirs = {who: value for (name, who), value in seconds.items() if name == rule.name and who != "ours"}
    left_out = {who: why for (name, who), why in too_slow.items() if name == rule.name}
    return Measurement(rule.name, rule.bound, seconds[rule.name, "ours"], theirs, left_out, memory)


def _seconds(cases: dict[tuple[str, str], Run]) -> dict[tuple[str, str], float]:
    """Return each case's least seconds; all run in turn, and one that has had its time sits out the rest."""
    watch, least = Stopwatch(time.perf_counter), {}
    with steady():
        for _ in range(REPETITIONS):
            for place, case in cases.items():
                before = watch.spent(str(place))
                if before < SECONDS_EACH:
                    watch.run(str(place), case)
                    taken = watch.spent(str(place)) - before
                    least[place] = min(taken, least.get(place, taken))
    return least


def _extra_bytes(case: Run) -> int:
    tracemalloc.start()
    case()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _expected_seconds(rule: str, who: str, count: int, columns: int, smaller: Sequence[Setting]) -> float:
    """Return what a case will take at least, going by the same one with fewer parameters."""
    for setting in reversed(smaller):
        if setting.count == count:
            for measured in setting.measurements:
                if measured.rule == rule and who in measured.others:
                    return measured.others[who] * columns / setting.columns
                if measured.rule == rule and who in measured.left_out:
                    return float("inf")
    return 0.0


if __name__ == "__main__":
    main()
