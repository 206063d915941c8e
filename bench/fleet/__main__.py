"""`python -m bench.fleet [--sizes 100,1000,5000] [--generators N] [--output FILE] [--json FILE]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.fleet.page import page
from bench.fleet.run import FleetFigures, site_under_load
from bench.fleet.scaling import scaling_page
from bench.fleet.summary import summary
from bench.postgresql_site import DEFAULT_SERVER


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the fleets one after the other on one site, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,1000,5000", help="devices of each fleet (default: %(default)s)")
    parser.add_argument("--generators", type=int, default=2, help="processes of virtual devices (default: %(default)s)")
    parser.add_argument("--server", default=DEFAULT_SERVER, help="a superuser's URL of PostgreSQL")
    parser.add_argument("--broker", default="redis://127.0.0.1:6379/14", help="an empty Redis database, emptied again")
    parser.add_argument("--output", type=Path, help="write the page there, and its figures beside it as JSON")
    parser.add_argument("--scaling", type=Path, help="write there what larger fleets need by these figures")
    parser.add_argument("--json", type=Path, help="write all samples there, after each fleet")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    with site_under_load(options.server, options.broker, options.generators) as bench:
        bench.warm_up()
        fleets = []
        for size in sizes:
            fleets.append(bench.fleet(size))
            sys.stderr.write(f"{size} devices: {_accepted(fleets[-1])} updates in the models\n")
            if options.json:  # after each fleet: the largest takes a while
                options.json.write_text(json.dumps([asdict(one) for one in fleets]))
    text = page(fleets)
    if options.output:
        options.output.write_text(text)
        figures = options.output.with_suffix(".json")
        figures.write_text(json.dumps(summary(fleets), indent=1) + "\n")
        if options.scaling:
            options.scaling.write_text(scaling_page(figures))
    else:
        sys.stdout.write(text)


def _accepted(fleet: FleetFigures) -> str:
    return ", ".join(str(one.accepted) for one in fleet.rounds.values())


if __name__ == "__main__":
    main()
