"""`python -m bench.compare [--only PLATFORM] [--task digits|wide] [--write]`: every platform, one after the other."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench.compare.page import PAGE, page
from bench.compare.plot import plot
from bench.compare.processor_time import adopt_orphans, seconds_of_descendants
from bench.compare.task import Figures, Task

PLATFORMS = ("qflare", "flower", "nvflare")
TASKS = {"digits": Task(devices=10, rounds=5), "wide": Task(devices=4, rounds=3, wide=True)}
LIMIT_SECONDS = 300
"""For one platform and task; one that takes longer is ended, and the page says so."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run each task on each platform in a process of its own, one after the other, and print or write the page."""
    options = _parser().parse_args(arguments)
    if options.only:
        sys.stdout.write(json.dumps(asdict(_run(options.only, _task(options), options.nvflare_python))) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="nvflare-venv-") as folder:
        python = options.nvflare_python or _installed(Path(folder))
        platforms = [name for name in PLATFORMS if name != "nvflare" or python]
        names = [options.task] if options.task else list(TASKS)
        runs = {name: {platform: _in_a_process(platform, name, python) for platform in platforms} for name in names}
    text = page({TASKS[name]: figures for name, figures in runs.items()}, LIMIT_SECONDS)
    if options.write:
        PAGE.write_text(text)
        if "digits" in runs:
            PAGE.with_suffix(".svg").write_text(plot([one for one in runs["digits"].values() if one]))
    else:
        sys.stdout.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--only", choices=PLATFORMS, help="one platform alone, its figures as JSON")
    parser.add_argument("--task", choices=TASKS, help="one task alone; with --only: digits")
    parser.add_argument("--devices", type=int, help="with --only: another number of devices")
    parser.add_argument("--rounds", type=int, help="with --only: another number of rounds")
    parser.add_argument(
        "--nvflare-python",
        type=Path,
        help="an interpreter that has nvflare; else it is installed from PyPI for the run",
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/compare.md and .svg")
    return parser


def _task(options: argparse.Namespace) -> Task:
    task = TASKS[options.task or "digits"]
    return replace(task, devices=options.devices or task.devices, rounds=options.rounds or task.rounds)


def _installed(folder: Path) -> Path | None:
    from bench.compare.nvflare_side import install

    return install(folder)


def _run(platform: str, task: Task, python: Path | None) -> Figures:
    adopt_orphans()
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(LIMIT_SECONDS)
    if platform == "qflare":
        from bench.compare import qflare_side

        figures = qflare_side.run(task)
    elif platform == "flower":
        from bench.compare import flower_side

        figures = flower_side.run(task)
    elif python is None:
        raise SystemExit("Name the interpreter that has nvflare: --nvflare-python.")
    else:
        from bench.compare import nvflare_side

        figures = nvflare_side.run(task, python)
    signal.alarm(0)
    figures.cpu_seconds += seconds_of_descendants()
    return figures


def _too_late(*_of_signal: object) -> None:
    """Leave by an exception, so that everything that was started is ended on the way."""
    raise SystemExit(f"It did not end in {LIMIT_SECONDS} s.")


def _in_a_process(platform: str, task: str, python: Path | None) -> Figures | None:
    """Return the figures; None where the run failed or took too long, and why on standard error."""
    command = [sys.executable, "-m", "bench.compare", "--only", platform, "--task", task]
    command += ["--nvflare-python", str(python)] if python else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - ourselves
    return Figures(**json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


if __name__ == "__main__":
    main()
