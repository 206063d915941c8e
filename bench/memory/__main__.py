"""`python -m bench.memory [--rounds 200] [--every 5] [--output FILE]`: does a site grow with the rounds it has run?

On the profile of the environment: embedded, or services where `DATABASE_URL` and `REDIS_URL` name a PostgreSQL in
which databases may be created, and a Redis.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.memory.page import Sample, page

ROOT = Path(__file__).resolve().parents[2]
UNLIMITED = "1000000/m"
SCOPES = ("ENROLMENT", "CHALLENGE", "SUBMISSION", "UPLOAD", "DOWNLOAD", "WORK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds on a stage of their own and print or write the page."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qflare_site.settings")
    parser = argparse.ArgumentParser(prog="bench.memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=5, help="rounds between two samples (default: %(default)s)")
    parser.add_argument("--devices", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="write the page there instead of printing it")
    parser.add_argument("--json", type=Path, help="write all samples there too")
    options = parser.parse_args(arguments)
    samples = _measured(options)
    if options.json:
        options.json.write_text(json.dumps([asdict(sample) for sample in samples]))
    text = page(samples, devices=options.devices, profile=_profile())
    if options.output:
        options.output.write_text(text)
    else:
        sys.stdout.write(text)


def _profile() -> str:
    return "services" if os.environ.get("DATABASE_URL") else "embedded"


def _measured(options: argparse.Namespace) -> list[Sample]:
    from qflare_site.demo.settings import DemoSettings
    from qflare_site.demo.stage import demo_stage

    with demo_stage(DemoSettings(devices=10), keep=False) as stage, tempfile.TemporaryDirectory() as folder:
        environment = stage.environment | {f"QFLARE_RATE_{scope}": UNLIMITED for scope in SCOPES}
        figures = Path(folder) / "samples.json"
        numbers = (options.rounds, options.every, options.devices)
        command = [sys.executable, "-m", "bench.memory.rounds", str(figures), *map(str, numbers)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)  # noqa: S603 - our own module
        return [Sample(**members) for members in json.loads(figures.read_text())]


if __name__ == "__main__":
    main()
