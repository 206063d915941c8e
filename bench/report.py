"""What a benchmark prints: a table for people, JSON for machines."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measurement beside its reference, both in seconds, and the limits it is held to, where there are any.

    `most_times` bounds the ratio to the reference, `most_seconds` the time itself.
    """

    name: str
    seconds: float
    reference: str
    reference_seconds: float
    most_times: float | None = None
    most_seconds: float | None = None

    @property
    def ratio(self) -> float:
        """How many times as long as the reference it took."""
        return self.seconds / self.reference_seconds

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where no limit is set."""
        if self.most_times is None and self.most_seconds is None:
            return ""
        too_long = self.most_seconds is not None and self.seconds > self.most_seconds
        return "missed" if too_long or (self.most_times is not None and self.ratio > self.most_times) else "met"

    def to_json(self) -> dict[str, Any]:
        """Return the figure for machines; times in milliseconds."""
        return {
            "name": self.name,
            "milliseconds": self.seconds * 1e3,
            "reference": self.reference,
            "reference_milliseconds": self.reference_seconds * 1e3,
            "ratio": self.ratio,
            "most_times": self.most_times,
            "most_milliseconds": None if self.most_seconds is None else self.most_seconds * 1e3,
            "verdict": self.verdict,
        }


def parse_options(description: str, arguments: Sequence[str] | None, *, repetitions: int) -> argparse.Namespace:
    """Read the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repetitions", type=int, default=repetitions, help="rounds to run (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    return options


def show(title: str, figures: Sequence[Figure], *, as_json: bool, notes: Sequence[str] = ()) -> None:
    """Print the figures to standard output."""
    if as_json:
        content = {"title": title, "platform": _platform(), "figures": [figure.to_json() for figure in figures]}
        sys.stdout.write(json.dumps(content | {"notes": list(notes)}, indent=1) + "\n")
        return
    width = max(len(figure.name) for figure in figures) + 2
    reference_width = max(len(figure.reference) for figure in figures) + 2
    sys.stdout.write(f"{title} ({_platform()})\n")
    sys.stdout.write(f"{'':{width}}{'ms':>10}  {'reference':{reference_width}}{'ms':>10}{'ratio':>8}  limit\n")
    for figure in figures:
        sys.stdout.write(
            f"{figure.name:{width}}{figure.seconds * 1e3:>10.3f}  {figure.reference:{reference_width}}"
            f"{figure.reference_seconds * 1e3:>10.3f}{figure.ratio:>8.2f}  {_limit(figure)}\n".rstrip()
            + "\n"
        )
    sys.stdout.write("".join(f"  {note}\n" for note in notes) + "\n")


def _limit(figure: Figure) -> str:
    limits = []
    if figure.most_times is not None:
        limits.append(f"ratio {figure.most_times:.2f}")
    if figure.most_seconds is not None:
        limits.append(f"{figure.most_seconds * 1e3:g} ms")
    return f"{', '.join(limits)}: {figure.verdict}" if limits else ""


def _platform() -> str:
    return f"Python {platform.python_version()}, cryptography {version('cryptography')}, {platform.machine()}"
