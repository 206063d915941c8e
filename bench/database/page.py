"""The page of the figures, in Markdown."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measurement in seconds, beside a bare statement of the same size and the target it is held to."""

    name: str
    median: float
    p95: float
    bare: float
    target: float | None

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where no target is set."""
        return "" if self.target is None else "met" if self.median <= self.target else "missed"


_NOTES = (
    "",
    "An INSERT that commits waits for the disk: where the bare one takes longer than a target, no software meets it on",
    "that disk, and the rows *not waited for* (`synchronous_commit = off`, which QFLARE never sets) say what it costs",
    "above that. Of the session lookup the database takes about 0.2 ms (planning and running, `EXPLAIN ANALYZE`); its",
    "statement is built once (`sessions/session_lookup.py`): by the object mapper it took twice as long. The sweep",
    "writes one event a session, in transactions of 500; the clean-up one event a batch of 2,000.",
)


def page(figures: Sequence[Figure], server: str, repetitions: int, clean_ups: int) -> str:
    """Return the whole page."""
    lines = [
        "# The database",
        "",
        "`make bench-database` writes this page. Wall-clock milliseconds on PostgreSQL through Django, in the role of",
        "the process that does it and under row-level security, beside one bare statement of the same size by psycopg",
        "in the same run: an INSERT of as many bytes that commits, a SELECT of the same rows, one DELETE of as many.",
        f"{repetitions} repetitions in turn, {clean_ups} of the clean-ups; {server}, {platform.machine()}, "
        f"{os.cpu_count()} cores.",
        "",
        "| | median | p95 | bare | target | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for figure in figures:
        target = "" if figure.target is None else f"{figure.target * 1e3:g}"
        times = f"{figure.median * 1e3:.2f} | {figure.p95 * 1e3:.2f} | {figure.bare * 1e3:.2f}"
        lines.append(f"| {figure.name} | {times} | {target} | {figure.verdict} |")
    return "\n".join([*lines, *_NOTES]) + "\n"
