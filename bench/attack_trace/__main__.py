"""Replay a clean day and one attack for each rule to the monitor: `python -m bench.attack_trace`.

What is replayed are the events that services write, at the times at which they would, on a site of its
own (SQLite in a folder that is thrown away), with every rule at its default terms; the log is sequenced
and watched as beat would have it done. Exits with 1 when a rule opens other than one incident for its
attack, or anything opens on the clean day.
"""

import argparse
import sys

from bench.bare_site import bare_site


def main() -> int:
    """Replay, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack_trace", description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=int, default=24, help="length of the clean day")
    parser.add_argument("--devices", type=int, default=8)
    options = parser.parse_args()
    with bare_site():
        from bench.attack_trace.replay import replay

        report = replay(hours=options.hours, devices=options.devices)
    print(report.table())  # noqa: T201
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
