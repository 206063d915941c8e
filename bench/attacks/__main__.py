"""`python -m bench.attacks`: every rule and the default under every attack, as tables and a plot.

With --write the page docs/benchmarks/attacks.md and its plot are made anew; without, the tables are printed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.attacks.attacks import ATTACKS
from bench.attacks.data import load_images
from bench.attacks.experiments import SETTINGS, jobs_of, run_all
from bench.attacks.pipelines import BY_NAME as PIPELINES
from bench.attacks.pipelines import DEFAULT, FINALISTS
from bench.attacks.report import lines_by_setting, plot, put_between_marks, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "attacks.md"
ATTACK_NAMES = tuple(attack.name for attack in ATTACKS)
FINALISTS_SEEDS = 2
QUICK_ATTACKS = ("sign flip", "inner product 2", "min-max against")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, then print the tables or write the page."""
    options = _options(arguments)
    data, started = load_images(), time.monotonic()
    sys.stderr.write(f"Data: {data.name}.\n")
    results = list(run_all(jobs_of(options.settings, options.rules, options.attacks, options.seeds), options.processes))
    if options.json:
        sys.stdout.write(json.dumps({"data": data.name, "results": [asdict(result) for result in results]}) + "\n")
        return
    lines = lines_by_setting(results)
    text = "\n".join(f"### {setting.capitalize()}\n\n{table(of_setting)}" for setting, of_setting in lines.items())
    notes = f"Data: {data.name}. Seeds: {options.seeds}. {len(results)} runs.\n\n"
    sys.stderr.write(f"It took {(time.monotonic() - started) / 60:.0f} minutes.\n")
    if options.write:
        put_between_marks(PAGE, "finalists" if options.finalists else "tables", notes + text)
        if not options.finalists:
            PAGE.with_name("attacks.svg").write_text(plot(lines, DEFAULT), encoding="utf-8")
    else:
        sys.stdout.write(notes + text)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.attacks", description=__doc__)
    for name, choices in (("rules", PIPELINES), ("attacks", ATTACK_NAMES), ("settings", SETTINGS)):
        names = list(choices)
        parser.add_argument(f"--{name}", nargs="+", choices=names, default=names, metavar="NAME", help="; ".join(names))
    parser.add_argument("--seeds", type=int, default=1, help="runs of each experiment (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="workers (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"f = 4 and {', '.join(QUICK_ATTACKS)} only")
    parser.add_argument("--finalists", action="store_true", help="the best pipelines alone, f = 4, two seeds")
    parser.add_argument("--json", action="store_true", help="print every run as JSON for machines")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/attacks.md and .svg")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.processes < 1:
        parser.error("--seeds and --processes must be at least 1")
    if options.quick or options.finalists:
        options.settings = [name for name in SETTINGS if name.endswith("4")]
    if options.quick:
        options.attacks = list(QUICK_ATTACKS)
    if options.finalists:
        options.rules, options.seeds = list(FINALISTS), FINALISTS_SEEDS
    return options


if __name__ == "__main__":
    main()
