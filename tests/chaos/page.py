"""What the runs came to, as a page: for every step and victim the seconds until the round had ended."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.chaos.fleet import DEVICES
from tests.chaos.stage import NOBODY, VICTIMS


@dataclass(frozen=True)
class Outcome:
    """One round that survived: the `run` it belongs to, at which step who was killed, seconds from there to its end.

    `killed` is False where the round was over before the step was seen, in each of several rounds.
    """

    run: str
    step: str
    victim: str
    killed: bool
    seconds: float
    attempts: int


def add_to(results: Path, outcome: Outcome) -> None:
    """Add an outcome to a file of results."""
    with results.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def outcomes_in(results: Path) -> list[Outcome]:
    """Return the outcomes of a file of results."""
    return [Outcome(**json.loads(line)) for line in results.read_text().splitlines()]


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the page in Markdown, with a section for each run."""
    kills = sum(outcome.killed for outcome in outcomes if outcome.victim != NOBODY)
    head = HEAD.format(
        kills=kills, python=platform.python_version(), machine=platform.machine(), cores=os.cpu_count(), devices=DEVICES
    )
    parts = [head.rstrip()]
    for run in dict.fromkeys(outcome.run for outcome in outcomes):
        of_run = [outcome for outcome in outcomes if outcome.run == run]
        parts += ["", f"## {run}", "", *(_by_victim(of_run) if "random" in run else _by_step(of_run))]
    return "\n".join(parts) + "\n"


def _by_step(outcomes: Sequence[Outcome]) -> list[str]:
    victims = [victim for victim in (NOBODY, *VICTIMS) if any(outcome.victim == victim for outcome in outcomes)]
    latest = {(outcome.step, outcome.victim): outcome for outcome in outcomes}
    rows = ["| step | " + " | ".join(victims) + " |", "|---|" + "---:|" * len(victims)]
    for step in dict.fromkeys(outcome.step for outcome in outcomes):
        rows.append(f"| {step} | " + " | ".join(_cell(latest.get((step, victim))) for victim in victims) + " |")
    return rows


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return f"{outcome.seconds:.1f}" if outcome.killed else "not met"


def _by_victim(outcomes: Sequence[Outcome]) -> list[str]:
    rows = ["| victim | kills | median, s | longest, s | most attempts of a step |", "|---|---:|---:|---:|---:|"]
    for victim in VICTIMS:
        hits = [outcome for outcome in outcomes if outcome.victim == victim and outcome.killed]
        if hits:
            seconds = [outcome.seconds for outcome in hits]
            attempts = max(outcome.attempts for outcome in hits)
            rows.append(f"| {victim} | {len(hits)} | {median(seconds):.1f} | {max(seconds):.1f} | {attempts} |")
    return rows


HEAD = """# Kills at every step of a round

Made by `python -m tests.chaos` on {machine}, Python {python}, {cores} cores: the services profile with a PostgreSQL and
a Redis of its own, {devices} devices (the real client) that ask, train, upload at once and by pieces all the time. In
each round one part of the site gets SIGKILL at one step; what died is started again as `manage.py serve` does it, and
nobody helps. Then the round must have completed; every update with a receipt is in its signed result once; the model is
the exact mean of them; at the end the log verifies itself, and its export offline. **{kills} kills, all survived.**

Numbers are seconds from when what was killed is started again (of `writes`: takes changes again) to the end of the
round, what was left of its own work included; the column `nobody` is a round in which nothing is killed. Other work
shares the cores, so they say that a round gets over it and how long that may take, not how fast a site is. Leases are
3 seconds here, 30 by default. `emptied redis` loses every message, `writes` is a database that takes no changes for a
second; a sealed process is there at some steps only.
"""
