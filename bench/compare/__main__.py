"""`python -m bench.compare [--devices 10] [--rounds 5] [--only qflare|flower] [--output FILE]`."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.compare.page import page
from bench.compare.processor_time import adopt_orphans, seconds_of_descendants
from bench.compare.task import Figures, Task

PLATFORMS = ("qflare", "flower")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run each platform in a process of its own, one after the other, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--only", choices=PLATFORMS, help="one platform alone, its figures as JSON")
    parser.add_argument("--output", type=Path, help="write the page there instead of printing it")
    options = parser.parse_args(arguments)
    task = Task(options.devices, options.rounds)
    if options.only:
        sys.stdout.write(json.dumps(asdict(_run(options.only, task))) + "\n")
        return
    text = page(task, [_in_a_process(platform, options) for platform in PLATFORMS])
    if options.output:
        options.output.write_text(text)
    else:
        sys.stdout.write(text)


def _run(platform: str, task: Task) -> Figures:
    if platform == "qflare":
        from bench.compare.qflare_side import run
    else:
        from bench.compare.flower_side import run
    adopt_orphans()
    figures = run(task)
    figures.cpu_seconds = seconds_of_descendants()
    return figures


def _in_a_process(platform: str, options: argparse.Namespace) -> Figures:
    command = [sys.executable, "-m", "bench.compare", "--only", platform]
    command += ["--devices", str(options.devices), "--rounds", str(options.rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - ourselves
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
